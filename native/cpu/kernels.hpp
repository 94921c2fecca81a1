// The kernels that exist for every instruction set, and the jobs that they are given. entry.cpp has checked the
// arguments.
#pragma once

#include <cstdint>

#include "featup_native.h"

namespace featup {

// Up to so many channels are summed in planes. As FEW_CHANNELS in featup_app/ops/layout.py.
constexpr int64_t kFewChannels = 8;

// A window sum, or its gradient to the padded input.
//
// Both read, for the result pixel (y, x) and the tap (dy, dx), the source at (y + dy - margin, x + dx - margin), which
// counts as zero outside. For the sum the margin is 0 and nothing is outside. The gradient is the same sum with a
// margin of k - 1 over mirrored taps, whose weights are those of the pixel that is read.
struct WindowSumJob {
  featup_tensor source;
  featup_tensor weights;
  featup_tensor result;
  int kernel_size;
  bool grad_input;
  int threads;
};

// The gradient of a window sum to its weights: products of the pixel's vector with the vectors of its neighbours,
// summed over channels.
struct WindowGradWeightsJob {
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

// Bicubic doubling, reflecting padding and a 7 x 7 window sum. The source holds every cell that is read.
struct DoublingJob {
  featup_tensor source;
  featup_tensor weights;
  featup_tensor result;
  featup_place place;
  int threads;
};

// result[b, c, y, x] between the source rows rows[y] and the next, at row_shares[y] of the way, and columns likewise.
struct BilinearJob {
  featup_tensor source;
  featup_tensor result;
  const int64_t* rows;
  const double* row_shares;
  const int64_t* columns;
  const double* column_shares;
  int threads;
};

// result = skip * first + scale * (weights2 GELU(weights1 [first; second] + bias1) + bias2) at each pixel. Weights and
// biases are in the number format of the maps, rows of weights one after the other; `second` may have no channels.
struct PixelNetworkJob {
  featup_tensor first;
  featup_tensor second;
  featup_tensor result;
  const void* weights1;
  const void* bias1;
  const void* weights2;
  const void* bias2;
  int64_t hidden;
  double skip, scale;
  int threads;
};

// Window weights (B,T,H,W) in float32 to float16, keeping the sum over the taps.
struct RoundingJob {
  featup_tensor weights;
  featup_tensor result;
  int threads;
};

// `rounds` of independent multiplications and additions in registers on each thread; `operations` becomes their number.
struct MultiplyAddJob {
  int64_t rounds;
  double* operations;
  int threads;
};

// Attention of output pixels to the window of coarse cells around their own. Of the weights alone, the values are empty
// and the result has a plane for each tap. Cells are in the grid and do not decrease.
struct AttentionJob {
  featup_tensor queries;
  featup_tensor keys;
  featup_tensor values;
  featup_tensor row_logits;     // (1, 1, H, k)
  featup_tensor column_logits;  // (1, 1, W, k)
  const int64_t* row_cells;
  const int64_t* column_cells;
  featup_tensor result;
  int threads;
};

// The gradients of an attention to cells; the result of `forward` is the gradient of its output. Those of keys and
// values are 0 before.
struct AttentionGradientJob {
  AttentionJob forward;
  featup_tensor grad_queries;
  featup_tensor grad_keys;
  const featup_tensor* grad_values;  // NULL if it is not wanted
  featup_tensor grad_row_logits;
  featup_tensor grad_column_logits;
};

// Each returns false if it ran out of memory.
struct Kernels {
  const char* name;
  bool (*window_sum)(const WindowSumJob&);
  bool (*window_grad_weights)(const WindowGradWeightsJob&);
  bool (*window_weights)(const WindowWeightsJob&);
  bool (*guided_double)(const DoublingJob&);
  bool (*bilinear)(const BilinearJob&);
  bool (*pixel_network)(const PixelNetworkJob&);
  bool (*round_weights)(const RoundingJob&);
  bool (*cell_attention)(const AttentionJob&);
  bool (*cell_attention_weights)(const AttentionJob&);
  bool (*cell_attention_gradient)(const AttentionGradientJob&);
  bool (*multiply_add)(const MultiplyAddJob&);
};

extern const Kernels kernels_baseline;
#if defined(FEATUP_X86_VARIANTS)
extern const Kernels kernels_avx2;
extern const Kernels kernels_avx512;
#endif

}  // namespace featup
