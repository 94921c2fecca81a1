// All kernels for one instruction set. The including file names the set: FEATUP_VARIANT (an identifier) and
// FEATUP_NAME.
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
#include "window_grad_weights.hpp"
#include "planar.hpp"
#include "doubling.hpp"
#include "bilinear.hpp"
#include "pixel_network.hpp"
#include "rounding.hpp"
#include "cell_attention.hpp"
#include "cell_attention_gradient.hpp"
#include "peak.hpp"

// The gradient to the input reads the weights of all the pixels around its own. Up to so many channels it is faster in
// planes, where those are shifted rows, than pixel by pixel, where they must be gathered.
constexpr int64_t kGradInputPlanes = 64;

template <class T>
bool sum_of(const WindowSumJob& job) {
  const bool planes = job.source.stride[3] == 1 && job.weights.stride[3] == 1 && job.result.stride[3] == 1;
  const bool plain = job.source.dtype == kPlain<T> && job.result.dtype == kPlain<T>;
  if (job.grad_input && job.result.size[1] <= kGradInputPlanes && planes && plain && job.weights.dtype == kPlain<T>)
    return window_grad_input_planar<T>(job), true;
  if (!job.grad_input && job.result.size[1] <= kGradInputPlanes && planes && plain) {
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
bool grad_weights_of(const WindowGradWeightsJob& job) {
  switch (job.kernel_size) {
    case 3: return window_grad_weights_many<T, 3>(job);
    case 5: return window_grad_weights_many<T, 5>(job);
    case 7: return window_grad_weights_many<T, 7>(job);
    default: return window_grad_weights_many<T, 0>(job);
  }
}

bool window_sum(const WindowSumJob& job) {
  return job.source.dtype == FEATUP_FLOAT64 ? sum_of<double>(job) : sum_of<float>(job);
}
bool window_grad_weights(const WindowGradWeightsJob& job) {
  return job.padded.dtype == FEATUP_FLOAT64 ? grad_weights_of<double>(job) : grad_weights_of<float>(job);
}
bool window_weights(const WindowWeightsJob& job) {
  return job.padded.dtype == FEATUP_FLOAT64 ? window_weights_planar<double>(job) : window_weights_planar<float>(job);
}

template <class T, class S>
bool double_of(const DoublingJob& job) {
  return job.result.size[1] > kFewChannels ? double_many<T, S>(job) : double_planar<T, S>(job);
}

bool guided_double(const DoublingJob& job) {
  if (job.source.dtype == FEATUP_FLOAT64) return double_of<double, double>(job);
  if (job.weights.dtype == FEATUP_FLOAT16) return double_of<float, Half>(job);
  if (job.weights.dtype == FEATUP_BFLOAT16) return double_of<float, BFloat>(job);
  return double_of<float, float>(job);
}

template <class T>
bool bilinear_of(const BilinearJob& job) {
  if (job.result.size[1] <= kFewChannels) return bilinear_planar<T>(job);
  return bilinear_many<T>(job), true;
}

bool bilinear(const BilinearJob& job) {
  return job.source.dtype == FEATUP_FLOAT64 ? bilinear_of<double>(job) : bilinear_of<float>(job);
}

bool pixel_network(const PixelNetworkJob& job) {
  return job.result.dtype == FEATUP_FLOAT64 ? pixel_network_of<double>(job) : pixel_network_of<float>(job);
}

bool cell_attention(const AttentionJob& job) {
  const bool many = job.result.size[1] > kFewChannels;
  if (job.result.dtype == FEATUP_FLOAT64) return many ? attention_many<double>(job) : attention_few<double>(job);
  return many ? attention_many<float>(job) : attention_few<float>(job);
}
bool cell_attention_weights(const AttentionJob& job) {
  return job.result.dtype == FEATUP_FLOAT64 ? attention_weights_of<double>(job) : attention_weights_of<float>(job);
}
bool cell_attention_gradient(const AttentionGradientJob& job) {
  const bool exact = job.forward.result.dtype == FEATUP_FLOAT64;
  return exact ? attention_gradient_of<double>(job) : attention_gradient_of<float>(job);
}

}  // namespace
}  // namespace FEATUP_VARIANT

#define FEATUP_JOIN_(a, b) a##b
#define FEATUP_JOIN(a, b) FEATUP_JOIN_(a, b)
const Kernels FEATUP_JOIN(kernels_, FEATUP_VARIANT) = {FEATUP_NAME,
                                                       FEATUP_VARIANT::window_sum,
                                                       FEATUP_VARIANT::window_grad_weights,
                                                       FEATUP_VARIANT::window_weights,
                                                       FEATUP_VARIANT::guided_double,
                                                       FEATUP_VARIANT::bilinear,
                                                       FEATUP_VARIANT::pixel_network,
                                                       FEATUP_VARIANT::round_weights,
                                                       FEATUP_VARIANT::cell_attention,
                                                       FEATUP_VARIANT::cell_attention_weights,
                                                       FEATUP_VARIANT::cell_attention_gradient,
                                                       FEATUP_VARIANT::multiply_add};

}  // namespace featup
