// What native/cuda/status.cu says of real devices, for the library under the emulation.

#include "featup_cuda.h"

extern "C" int featup_cuda_abi_version(void) { return FEATUP_CUDA_ABI_VERSION; }
extern "C" int featup_cuda_device_count(void) { return 1; }
extern "C" const char* featup_cuda_device_problem(int device) {
  return device == 0 ? nullptr : "the emulation has one device";
}
extern "C" const char* featup_cuda_status(void) { return "An emulation on the host."; }
