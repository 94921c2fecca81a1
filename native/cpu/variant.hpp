// All kernels for one instruction set. The including file names the set: FEATUP_VARIANT (an identifier) and FEATUP_NAME.
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "kernels.hpp"

namespace featup {
namespace FEATUP_VARIANT {
namespace {

#include "vector.hpp"
#include "storage.hpp"
#include "window_sum.hpp"
#include "window_dot.hpp"
#include "planar.hpp"

constexpr int64_t kFewChannels = 8;

template <class T>
bool sum_of(const WindowSumJob& job) {
  const bool planes = job.source.stride[3] == 1 && job.weights.stride[3] == 1 && job.result.stride[3] == 1;
  const bool plain = job.source.dtype == kPlain<T> && job.result.dtype == kPlain<T>;
  if (!job.spread && job.result.size[1] <= kFewChannels && planes && plain) {
    if constexpr (sizeof(T) == 4) {
      if (job.weights.dtype == FEATUP_FLOAT16) return window_sum_planar<T, Half>(job), true;
      if (job.weights.dtype == FEATUP_BFLOAT16) return window_sum_planar<T, BFloat>(job), true;
    }
    return window_sum_planar<T, T>(job), true;
  }
  switch (job.kernel_size) {
    case 3: return window_sum_many<T, 3>(job);
    case 5: return window_sum_many<T, 5>(job);
    case 7: return window_sum_many<T, 7>(job);
    default: return window_sum_many<T, 0>(job);
  }
}

template <class T>
bool dot_of(const WindowDotJob& job) {
  switch (job.kernel_size) {
    case 3: return window_dot_many<T, 3>(job);
    case 5: return window_dot_many<T, 5>(job);
    case 7: return window_dot_many<T, 7>(job);
    default: return window_dot_many<T, 0>(job);
  }
}

bool window_sum(const WindowSumJob& job) {
  return job.source.dtype == FEATUP_FLOAT64 ? sum_of<double>(job) : sum_of<float>(job);
}
bool window_dot(const WindowDotJob& job) {
  return job.padded.dtype == FEATUP_FLOAT64 ? dot_of<double>(job) : dot_of<float>(job);
}
bool window_weights(const WindowWeightsJob& job) {
  return job.padded.dtype == FEATUP_FLOAT64 ? window_weights_planar<double>(job) : window_weights_planar<float>(job);
}

}  // namespace
}  // namespace FEATUP_VARIANT

#define FEATUP_JOIN_(a, b) a##b
#define FEATUP_JOIN(a, b) FEATUP_JOIN_(a, b)
const Kernels FEATUP_JOIN(kernels_, FEATUP_VARIANT) = {FEATUP_NAME, FEATUP_VARIANT::window_sum, FEATUP_VARIANT::window_dot,
                                                       FEATUP_VARIANT::window_weights};

}  // namespace featup
