// In place of native/cuda/status.cu, for the library under the emulation.

#include "featup_cuda.h"

extern "C" int32_t featup_cuda_abi_version(void) { return FEATUP_ABI_VERSION; }
extern "C" int32_t featup_cuda_device_count(void) { return 1; }
extern "C" const char* featup_cuda_device_problem(int32_t device) {
  return device == 0 ? nullptr : "the emulation has one device";
}
extern "C" const char* featup_cuda_status(void) { return "An emulation on the host."; }
