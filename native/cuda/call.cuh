// Code that every call runs around its kernel: the checks that only CUDA needs, the number of blocks, and the choice of
// a template.
#pragma once

#include "checks.hpp"
#include "device.cuh"
#include "featup_cuda.h"

#ifndef FEATUP_CUDA_MOST_BLOCKS  // smaller in tests, so that they also reach the loop over the remaining tiles
#define FEATUP_CUDA_MOST_BLOCKS 0x7fffffff
#endif

namespace featup {

constexpr int kLargestKernel = 255;

inline const char* cuda_error(cudaError_t error) {
  if (error == cudaSuccess) return nullptr;
  return message("CUDA error %d: %s", static_cast<int>(error), cudaGetErrorString(error));
}

// Checks that the kernels' 32-bit coordinates and 64-bit offsets reach all of a tensor and of its padding.
inline const char* check_reach(const Named& named, int kernel_size) {
  constexpr int64_t limit = int64_t(1) << 30;  // with padding and a tile it fits into 32 bits
  double count = 1;
  for (const int64_t size : named.tensor->size) {
    if (size > limit)
      return message("%s has the size %lld; expected at most %lld", named.name, static_cast<long long>(size),
                     static_cast<long long>(limit));
    count *= double(size + kernel_size);
  }
  return count <= 4e18 ? nullptr : message("%s is too large", named.name);
}

inline const char* check_on_device(const char* name, const void* pointer) {
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
#else
  (void)name, (void)pointer;
#endif
  return nullptr;
}

inline const char* check_contiguous(const Named& named) {
  if (is_empty(*named.tensor)) return nullptr;
  int64_t step = 1;
  for (int i = 3; i >= 0; --i) {
    if (named.tensor->size[i] != 1 && named.tensor->stride[i] != step)
      return message("%s must be contiguous", named.name);
    step *= named.tensor->size[i];
  }
  return nullptr;
}

// Checks tensors whose descriptors and shapes fit: one number format, on the current device, and a contiguous output.
inline const char* check_for_cuda(std::initializer_list<Named> inputs, const Named& output, int kernel_size) {
  const auto check = [&](const Named& named) -> const char* {
    if (const char* wrong = check_reach(named, kernel_size)) return wrong;
    if (const char* wrong = check_same_dtype(named, *inputs.begin())) return wrong;
    return is_empty(*named.tensor) ? nullptr : check_on_device(named.name, named.tensor->data);
  };
  for (const Named& input : inputs)
    if (const char* wrong = check(input)) return wrong;
  if (const char* wrong = check(output)) return wrong;
  return check_contiguous(output);
}

inline Strides strides_of(const featup_tensor& tensor) {
  return {tensor.stride[0], tensor.stride[1], tensor.stride[2], tensor.stride[3]};
}

inline Sizes sizes_of(const featup_tensor& unpadded) {
  return {unpadded.size[0], unpadded.size[1], unpadded.size[2], unpadded.size[3]};
}

inline unsigned blocks_for(int64_t items) {
  return static_cast<unsigned>(items < FEATUP_CUDA_MOST_BLOCKS ? items : FEATUP_CUDA_MOST_BLOCKS);
}

// Channels per block: many, so that weights are read rarely, but few enough to fill a large device with blocks.
inline int64_t channel_share(const Sizes& sizes, int64_t tiles) {
  constexpr int64_t enough = 1024;
  int64_t share = 8 * kStage;
  while (share > kStage && tiles * sizes.batch * ((sizes.channels + share - 1) / share) < enough) share /= 2;
  return share;
}

inline const char* launched() { return cuda_error(cudaGetLastError()); }

// Calls `run` with a value of the storage type of a tensor that was checked.
template <class Run>
const char* with_dtype(int32_t dtype, Run run) {
  switch (dtype) {
    case FEATUP_FLOAT32: return run(float());
    case FEATUP_FLOAT64: return run(double());
    case FEATUP_FLOAT16: return run(__half());
    default: return run(__nv_bfloat16());
  }
}

template <int Value>
struct Constant {
  static constexpr int value = Value;
};

// Calls `run` with the kernel size as a constant, 0 for those without kernels of their own.
template <class Run>
const char* with_kernel_size(int32_t kernel_size, Run run) {
  switch (kernel_size) {
    case 3: return run(Constant<3>());
    case 5: return run(Constant<5>());
    case 7: return run(Constant<7>());
    default: return run(Constant<0>());
  }
}

}  // namespace featup
