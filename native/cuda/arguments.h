// The checks of every call, and the words for what does not fit.
#pragma once

#include <cstdarg>
#include <cstdint>
#include <cstdio>

#include "device.cuh"
#include "featup_cuda.h"

#ifndef FEATUP_CUDA_MOST_BLOCKS  // smaller in the tests, so that they too reach the loop over the rest
#define FEATUP_CUDA_MOST_BLOCKS 0x7fffffff
#endif

namespace featup {

#if defined(__GNUC__)
__attribute__((format(printf, 1, 2)))
#endif
inline const char* message(const char* format, ...) {
  thread_local char text[256];
  std::va_list values;
  va_start(values, format);
  std::vsnprintf(text, sizeof text, format, values);
  va_end(values);
  return text;
}

inline const char* cuda_error(cudaError_t error) {
  if (error == cudaSuccess) return nullptr;
  return message("CUDA error %d: %s", static_cast<int>(error), cudaGetErrorString(error));
}

inline const char* check_sizes(const Sizes& sizes, int64_t kernel_size) {
  constexpr int64_t limit = int64_t(1) << 30;  // of one size: with padding and a tile it fits into 32 bits; products need 64
  if (kernel_size < 1 || kernel_size % 2 == 0 || kernel_size > 255)
    return message("kernel_size is %lld; expected an odd number up to 255", static_cast<long long>(kernel_size));
  const struct {
    const char* name;
    int64_t value;
  } each[] = {{"batch", sizes.batch}, {"channels", sizes.channels}, {"height", sizes.height}, {"width", sizes.width}};
  for (const auto& size : each)
    if (size.value < 0 || size.value > limit)
      return message("%s is %lld; expected 0 to %lld", size.name, static_cast<long long>(size.value),
                     static_cast<long long>(limit));
  const double plane = double(sizes.height + kernel_size) * double(sizes.width + kernel_size);
  const double planes = double(sizes.batch) * double(sizes.channels + kernel_size * kernel_size);
  if (plane * planes > 4e18) return message("batch, channels, height and width are too large together");
  return nullptr;
}

// A tensor's strides, after its pointer was checked. `count` elements: none need no memory.
inline const char* check_tensor(const char* name, const void* pointer, int64_t count, const int64_t* strides) {
  if (strides != nullptr)
    for (int dimension = 0; dimension < 4; ++dimension)
      if (strides[dimension] < 0)
        return message("%s has the stride %lld; expected none below 0", name, static_cast<long long>(strides[dimension]));
  if (count == 0) return nullptr;
  if (pointer == nullptr) return message("%s is NULL", name);
#ifdef __CUDACC__
  cudaPointerAttributes attributes;
  int device = 0;
  if (const char* error = cuda_error(cudaGetDevice(&device))) return error;
  if (const char* error = cuda_error(cudaPointerGetAttributes(&attributes, pointer))) {
    cudaGetLastError();
    return error;
  }
  if (attributes.type != cudaMemoryTypeDevice && attributes.type != cudaMemoryTypeManaged)
    return message("%s is not memory of a CUDA device", name);
  if (attributes.type == cudaMemoryTypeDevice && attributes.device != device)
    return message("%s lies on CUDA device %d, but device %d is current", name, attributes.device, device);
#endif
  return nullptr;
}

inline Strides strides_of(const int64_t* strides, int64_t channels, int64_t height, int64_t width) {
  if (strides != nullptr) return {strides[0], strides[1], strides[2], strides[3]};
  return {channels * height * width, height * width, width, 1};
}

inline unsigned blocks_for(int64_t items) {
  return static_cast<unsigned>(items < FEATUP_CUDA_MOST_BLOCKS ? items : FEATUP_CUDA_MOST_BLOCKS);
}

// Channels that one block takes: many, so that the weights are read seldom, but enough blocks to fill a large device.
inline int64_t channel_share(const Sizes& sizes, int64_t tiles) {
  constexpr int64_t enough = 1024;
  int64_t share = 8 * kStage;
  while (share > kStage && tiles * sizes.batch * ((sizes.channels + share - 1) / share) < enough) share /= 2;
  return share;
}

inline const char* launched() { return cuda_error(cudaGetLastError()); }

// Calls `run` with a value of the storage type.
template <class Run>
const char* with_dtype(int dtype, Run run) {
  switch (dtype) {
    case FEATUP_CUDA_FLOAT32: return run(float());
    case FEATUP_CUDA_FLOAT64: return run(double());
    case FEATUP_CUDA_FLOAT16: return run(__half());
    case FEATUP_CUDA_BFLOAT16: return run(__nv_bfloat16());
    default: return message("dtype is %d; expected one of featup_cuda_dtype", dtype);
  }
}

template <int Value>
struct Constant {
  static constexpr int value = Value;
};

// Calls `run` with the kernel size as a constant, 0 for those without kernels of their own.
template <class Run>
const char* with_kernel_size(int64_t kernel_size, Run run) {
  switch (kernel_size) {
    case 3: return run(Constant<3>());
    case 5: return run(Constant<5>());
    case 7: return run(Constant<7>());
    default: return run(Constant<0>());
  }
}

}  // namespace featup
