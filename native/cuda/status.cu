// Sentences about the devices; works without a driver.

#include "call.cuh"

namespace featup {

// Does nothing: whether a device can find it shows whether the library has code for that device.
__global__ void probe() {}

}  // namespace featup

using namespace featup;

extern "C" int32_t featup_cuda_abi_version(void) { return FEATUP_ABI_VERSION; }

extern "C" int32_t featup_cuda_device_count(void) {
  int count = 0;
  if (cudaGetDeviceCount(&count) == cudaSuccess) return count;
  cudaGetLastError();
  return 0;
}

extern "C" const char* featup_cuda_device_problem(int32_t device) {
  int before = 0;
  if (const char* error = cuda_error(cudaGetDevice(&before))) return error;
  if (const char* error = cuda_error(cudaSetDevice(device))) {
    cudaGetLastError();
    return error;
  }
  cudaFuncAttributes attributes;
  const cudaError_t error = cudaFuncGetAttributes(&attributes, probe);
  if (error != cudaSuccess) cudaGetLastError();
  cudaDeviceProp properties;
  const bool known = cudaGetDeviceProperties(&properties, device) == cudaSuccess;
  cudaSetDevice(before);
  if (error == cudaSuccess) return nullptr;
  if (known && (error == cudaErrorNoKernelImageForDevice || error == cudaErrorInvalidDeviceFunction))
    return message("the library has no code for %s (compute capability %d.%d)", properties.name, properties.major,
                   properties.minor);
  return cuda_error(error);
}

extern "C" const char* featup_cuda_status(void) {
  int count = 0, driver = 0;
  const cudaError_t error = cudaGetDeviceCount(&count);
  if (error != cudaSuccess) cudaGetLastError();
  if (cudaDriverGetVersion(&driver) != cudaSuccess) driver = 0;
  const int needed = CUDART_VERSION / 1000;
  if (error == cudaErrorInsufficientDriver && driver == 0)
    return message("There is no CUDA driver on this machine (the library needs one for CUDA %d).", needed);
  if (error == cudaErrorInsufficientDriver)
    return message("The CUDA driver is too old: it is for CUDA %d.%d, and the library needs one for CUDA %d.",
                   driver / 1000, driver % 1000 / 10, needed);
  if (error == cudaErrorNoDevice || (error == cudaSuccess && count == 0))
    return message("There is a CUDA driver, but no device.");
  if (error != cudaSuccess) return message("The CUDA devices cannot be used: %s.", cudaGetErrorString(error));
  cudaDeviceProp first;
  if (cudaGetDeviceProperties(&first, 0) != cudaSuccess) return message("%d CUDA devices.", count);
  return message("%d CUDA device%s, the first is %s (compute capability %d.%d).", count, count == 1 ? "" : "s",
                 first.name, first.major, first.minor);
}
