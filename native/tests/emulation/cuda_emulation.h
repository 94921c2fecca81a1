// CUDA's execution model on the host, so that a .cu file can be compiled as C++ and run under the sanitizers.
//
// Each thread of a block is a std::thread; the blocks of a grid run one after the other. The sanitizers then see:
//  - Two threads of a block that access the same shared or global memory without a barrier between them are a data
//    race for ThreadSanitizer, in whatever order they really ran.
//  - Every shared array is a separate allocation, exactly as large as declared, so that AddressSanitizer sees an access
//    beyond it. It is filled with NaN before each block, so that reading unwritten values spoils the results.
//  - Barriers are checked: all threads of a block must wait at the same one. Threads that wait at another one, or that
//    have ended, are reported with file and line, and the program ends with status 70 instead of hanging.
//
// Not shown: races between blocks (they do not overlap here), anything of warps (there are no shuffles or votes),
// coalescing, bank conflicts, limits of registers and shared memory, asynchronous errors, fused multiply-add.
#pragma once

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <tuple>
#include <vector>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)

struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
  constexpr std::size_t count() const { return std::size_t(x) * y * z; }
  constexpr dim3 at(std::size_t index) const {
    return dim3(unsigned(index % x), unsigned(index / x % y), unsigned(index / x / y));
  }
};

namespace cuda_emulation {

[[noreturn]] inline void fail(const std::string& text) {
  std::fprintf(stderr, "cuda_emulation: %s\n", text.c_str());
  std::fflush(stderr);
  std::_Exit(70);
}

// An array of shared memory; exactly `bytes` long.
class SharedArray {
 public:
  explicit SharedArray(std::size_t bytes) : bytes_(bytes), memory_(new unsigned char[bytes]) { poison(); }
  void poison() { std::memset(memory_.get(), 0xFF, bytes_); }
  void* get() const { return memory_.get(); }

 private:
  std::size_t bytes_;
  std::unique_ptr<unsigned char[]> memory_;
};

// A block in flight: its barrier and its shared memory. The object serves all blocks of a launch, one after the other.
class Block {
 public:
  Block(std::size_t threads, std::size_t dynamic_bytes) : threads_(threads) {
    if (dynamic_bytes != 0) dynamic_ = std::make_unique<SharedArray>(dynamic_bytes);
  }

  // __syncthreads(). The last thread that can still arrive lets the others go.
  void barrier(const char* file, int line) {
    file_.store(file, std::memory_order_relaxed);
    const long phase = phase_.load(std::memory_order_acquire);
    places_[thread_place()] = line;
    arrive(phase);
  }

  // The end of the kernel for one thread; returns when the block's shared memory is ready for the next block.
  void end(std::size_t thread) {
    const long phase = phase_.load(std::memory_order_acquire);
    places_[thread] = 0;
    arrive(phase);
  }

  void* shared_array(const char* name, const char* file, int line, std::size_t bytes) {
    const std::lock_guard<std::mutex> lock(mutex_);
    std::unique_ptr<SharedArray>& array = arrays_[std::make_tuple(std::string(name), std::string(file), line)];
    if (!array) array = std::make_unique<SharedArray>(bytes);
    return array->get();
  }

  void* dynamic_shared() const {
    if (!dynamic_) fail("the kernel asks for dynamic shared memory, but was launched with none");
    return dynamic_->get();
  }

  void prepare() { places_.assign(threads_, 0); }

  static std::size_t& thread_place() {
    thread_local std::size_t place = 0;
    return place;
  }

 private:
  // All threads pass here at each barrier and at their end. The last to arrive compares where the others are.
  void arrive(long phase) {
    if (arrived_.fetch_add(1, std::memory_order_acq_rel) + 1 != threads_) {
      while (phase_.load(std::memory_order_acquire) == phase) phase_.wait(phase, std::memory_order_acquire);
      return;
    }
    compare_places();
    if (places_[0] == 0) {  // the block has ended
      if (dynamic_) dynamic_->poison();
      for (auto& array : arrays_) array.second->poison();
    }
    arrived_.store(0, std::memory_order_relaxed);
    phase_.fetch_add(1, std::memory_order_acq_rel);
    phase_.notify_all();
  }

  void compare_places() const {
    for (std::size_t thread = 1; thread < threads_; ++thread) {
      if (places_[thread] == places_[0]) continue;
      fail("divergent __syncthreads in " + std::string(file_.load(std::memory_order_relaxed)) + ": thread 0 " +
           where(places_[0]) + ", thread " + std::to_string(thread) + " " + where(places_[thread]));
    }
  }

  static std::string where(int line) { return line == 0 ? "has ended" : "waits at line " + std::to_string(line); }

  const std::size_t threads_;
  std::vector<int> places_;  // where each thread waits: a line, or 0 at its end
  std::atomic<std::size_t> arrived_{0};
  std::atomic<long> phase_{0};
  std::atomic<const char*> file_{""};  // the one with the last barrier, for the report
  std::mutex mutex_;
  std::map<std::tuple<std::string, std::string, int>, std::unique_ptr<SharedArray>> arrays_;
  std::unique_ptr<SharedArray> dynamic_;
};

inline thread_local dim3 thread_index, block_index;
inline thread_local Block* block = nullptr;
inline dim3 block_size, grid_size;

template <class... Parameters, class... Arguments>
void launch(void (*kernel)(Parameters...), dim3 grid, dim3 threads, std::size_t dynamic_bytes, Arguments... arguments) {
  if (threads.count() == 0 || threads.count() > 1024)
    fail("a block of " + std::to_string(threads.count()) + " threads");
  if (grid.count() == 0 || grid.y > 65535 || grid.z > 65535) fail("a grid that CUDA would refuse");
  block_size = threads;
  grid_size = grid;
  Block shared(threads.count(), dynamic_bytes);
  shared.prepare();
  std::vector<std::thread> workers;
  for (std::size_t place = 0; place < threads.count(); ++place) {
    workers.emplace_back([&, place] {
      block = &shared;
      Block::thread_place() = place;
      thread_index = threads.at(place);
      for (std::size_t index = 0; index < grid.count(); ++index) {
        block_index = grid.at(index);
        kernel(arguments...);
        shared.end(place);
      }
    });
  }
  for (std::thread& worker : workers) worker.join();
}

}  // namespace cuda_emulation

#define threadIdx cuda_emulation::thread_index
#define blockIdx cuda_emulation::block_index
#define blockDim cuda_emulation::block_size
#define gridDim cuda_emulation::grid_size
#define __syncthreads() cuda_emulation::block->barrier(__FILE__, __LINE__)
#define CUDA_EMULATION_SHARED(type, name, count) \
  type* const name =                             \
      static_cast<type*>(cuda_emulation::block->shared_array(#name, __FILE__, __LINE__, sizeof(type) * (count)))
#define CUDA_EMULATION_DYNAMIC_SHARED(type, name) \
  type* const name = static_cast<type*>(cuda_emulation::block->dynamic_shared())

// The 16-bit storage types, as far as the kernels use them.
struct __half {
  _Float16 value;
};
struct __nv_bfloat16 {
  std::uint16_t bits;
};
inline float __half2float(__half value) { return static_cast<float>(value.value); }
inline __half __float2half_rn(float value) { return {static_cast<_Float16>(value)}; }
inline float __bfloat162float(__nv_bfloat16 value) {
  const std::uint32_t bits = std::uint32_t(value.bits) << 16;
  float result;
  std::memcpy(&result, &bits, sizeof result);
  return result;
}
inline __nv_bfloat16 __float2bfloat16_rn(float value) {
  if (std::isnan(value)) return {0x7FFF};
  std::uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  return {static_cast<std::uint16_t>((bits + 0x7FFF + (bits >> 16 & 1)) >> 16)};
}

// The runtime, as far as the host code uses it: nothing ever fails.
enum cudaError_t { cudaSuccess = 0 };
inline cudaError_t cudaGetLastError() { return cudaSuccess; }
inline const char* cudaGetErrorString(cudaError_t) { return "no error"; }
