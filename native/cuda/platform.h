// The differences between nvcc and the tests' emulation: the declaration of shared memory and the launch of a kernel.
#pragma once

#ifdef __CUDACC__

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#define FEATUP_SHARED(type, name, count) __shared__ type name[count]

namespace featup {

template <class... Parameters, class... Arguments>
void launch(void (*kernel)(Parameters...), unsigned blocks, dim3 threads, void* stream, Arguments... arguments) {
  kernel<<<blocks, threads, 0, static_cast<cudaStream_t>(stream)>>>(arguments...);
}

}  // namespace featup

#else

#include "cuda_emulation.h"

#define FEATUP_SHARED(type, name, count) CUDA_EMULATION_SHARED(type, name, count)

namespace featup {

template <class... Parameters, class... Arguments>
void launch(void (*kernel)(Parameters...), unsigned blocks, dim3 threads, void*, Arguments... arguments) {
  cuda_emulation::launch(kernel, dim3(blocks), threads, 0, arguments...);
}

}  // namespace featup

#endif

namespace featup {

// Mistakes that tests plant to check that the sanitizers and the emulation find them. Never part of the library.
enum class Fault { none, race, shared_overflow, global_overflow, divergent_barrier };

#ifdef FEATUP_CUDA_PLANTED_FAULTS
inline Fault planted_fault = Fault::none;
inline bool planted(Fault fault) { return planted_fault == fault; }
#else
__host__ __device__ constexpr bool planted(Fault) { return false; }
#endif

}  // namespace featup
