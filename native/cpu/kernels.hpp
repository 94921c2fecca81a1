// What every instruction set has to offer, and the jobs it is given. Arguments have been checked by entry.cpp.
#pragma once

#include <cstdint>

#include "featup_native.h"

namespace featup {

// A window sum, forward or spread (its gradient to the padded input).
//
// Both read, for the result pixel (y, x) and the tap (dy, dx), the source at (y + dy - margin, x + dx - margin), which counts
// as zero outside. Forward the margin is 0 and nothing is outside. Spreading is the same sum with a margin of k - 1 over
// mirrored taps, whose weights are those of the pixel that is read.
struct WindowSumJob {
  featup_tensor source;
  featup_tensor weights;
  featup_tensor result;
  int kernel_size;
  bool spread;
  int threads;
};

// Products of the pixel's vector with the vectors of its neighbours, summed over channels.
struct WindowDotJob {
  featup_tensor padded;
  featup_tensor centre;
  featup_tensor result;
  int kernel_size;
  int threads;
};

struct WindowWeightsJob {
  featup_tensor padded;
  featup_tensor result;
  const double* bias;
  double factor;  // of the products, or of the squared distances
  int kernel_size;
  bool distances;
  int threads;
};

// Each returns false if it ran out of memory.
struct Kernels {
  const char* name;
  bool (*window_sum)(const WindowSumJob&);
  bool (*window_dot)(const WindowDotJob&);
  bool (*window_weights)(const WindowWeightsJob&);
};

extern const Kernels kernels_baseline;
#if defined(FEATUP_X86_VARIANTS)
extern const Kernels kernels_avx2;
extern const Kernels kernels_avx512;
#endif

}  // namespace featup
