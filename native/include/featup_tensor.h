/* What the C interfaces for the processor (featup_native.h) and for CUDA devices (featup_cuda.h) share. */
#ifndef FEATUP_TENSOR_H
#define FEATUP_TENSOR_H

#include <stdint.h>

#if defined(_WIN32)
#define FEATUP_API __declspec(dllexport)
#else
#define FEATUP_API __attribute__((visibility("default")))
#endif

/* Raised whenever a function or a structure changes, so that a caller never passes arguments to an older library. */
#define FEATUP_ABI_VERSION 4

/* How numbers are stored. Sums are taken in float32, for float64 in float64. */
enum featup_dtype { FEATUP_FLOAT32 = 0, FEATUP_FLOAT64 = 1, FEATUP_FLOAT16 = 2, FEATUP_BFLOAT16 = 3 };

/* Four dimensions, for example (batch, channel, row, column); strides count elements and may be 0 (expanded). */
typedef struct featup_tensor {
  void* data;
  int64_t size[4];
  int64_t stride[4];
  int32_t dtype;
} featup_tensor;

/* Which part of its maps a guided doubling works on: rows and columns of the whole coarse map, the coarse cell
 * (source_top, source_left) at which the source begins, and the fine pixel (top, left) at which the output begins. */
typedef struct featup_place {
  int64_t coarse_rows, coarse_columns;
  int64_t source_top, source_left;
  int64_t top, left;
} featup_place;

#endif
