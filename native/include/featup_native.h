/* The C interface of the compiled operators of featup-app.
 *
 * Every function that computes returns NULL, or a message that names the argument that is wrong. The message belongs to
 * the calling thread and is valid until its next call. Nothing is thrown, and nothing is written when a message is
 * returned, except that memory may run out half-way (the message then says so).
 *
 * Results may not overlap with inputs. The functions may be called from several threads at once.
 */
#ifndef FEATUP_NATIVE_H
#define FEATUP_NATIVE_H

#include <stdint.h>

#if defined(_WIN32)
#define FEATUP_API __declspec(dllexport)
#else
#define FEATUP_API __attribute__((visibility("default")))
#endif

#define FEATUP_ABI_VERSION 2

#ifdef __cplusplus
extern "C" {
#endif

/* How numbers are stored. Sums are taken in float32, for float64 in float64. */
enum featup_dtype { FEATUP_FLOAT32 = 0, FEATUP_FLOAT64 = 1, FEATUP_FLOAT16 = 2, FEATUP_BFLOAT16 = 3 };

/* Four dimensions, for example (batch, channel, row, column); strides count elements and may be 0 (expanded). */
typedef struct featup_tensor {
  void* data;
  int64_t size[4];
  int64_t stride[4];
  int32_t dtype;
} featup_tensor;

FEATUP_API int32_t featup_abi_version(void);

/* "AVX-512", "AVX2" or "baseline": what the functions below run on. */
FEATUP_API const char* featup_instruction_set(void);

/* Choose one of those by name ("best" for what this processor does fastest). Meant for tests: it holds for the process. */
FEATUP_API const char* featup_use_instruction_set(const char* name);

/* result[b,c,y,x] = sum over taps (dy,dx) of padded[b,c,y+dy,x+dx] * weights[b,dy*k+dx,y,x].
 * padded (B,C,H+k-1,W+k-1), weights (B,k*k,H,W), result (B,C,H,W) in the dtype of padded; k odd. */
FEATUP_API const char* featup_window_sum(const featup_tensor* padded, const featup_tensor* weights,
                                         const featup_tensor* result, int32_t kernel_size, int32_t threads);

/* Its gradient to padded: the gradient (B,C,H,W) spread over the windows; result (B,C,H+k-1,W+k-1). */
FEATUP_API const char* featup_window_spread(const featup_tensor* gradient, const featup_tensor* weights,
                                            const featup_tensor* result, int32_t kernel_size, int32_t threads);

/* Its gradient to weights: result[b,dy*k+dx,y,x] = sum over c of padded[b,c,y+dy,x+dx] * gradient[b,c,y,x]. */
FEATUP_API const char* featup_window_dot(const featup_tensor* padded, const featup_tensor* gradient,
                                         const featup_tensor* result, int32_t kernel_size, int32_t threads);

/* Softmax over the taps of temperature * (key of the pixel . key of its neighbour) + bias[tap].
 * keys (B,D,H+k-1,W+k-1) with columns next to each other, bias (k*k) of doubles, result (B,k*k,H,W); float32 or float64. */
FEATUP_API const char* featup_range_softmax(const featup_tensor* keys, double temperature, const double* bias,
                                            const featup_tensor* result, int32_t kernel_size, int32_t threads);

/* exp(scale * squared distance of the colours + bias[tap]), divided by its sum over the taps.
 * guidance (B,D,H+k-1,W+k-1) with columns next to each other; result (B,k*k,H,W); float32 or float64. */
FEATUP_API const char* featup_bilateral_weights(const featup_tensor* guidance, double scale, const double* bias,
                                                const featup_tensor* result, int32_t kernel_size, int32_t threads);

/* Where a guided doubling works: rows and columns of the whole coarse map, of which the source begins at (source_top,
 * source_left), and the fine row and column at which the result begins. */
typedef struct featup_place {
  int64_t coarse_rows, coarse_columns;
  int64_t source_top, source_left;
  int64_t top, left;
} featup_place;

/* Bicubic doubling of the coarse map, reflecting padding by 3 and window sum with 7 x 7 weights, in one pass.
 * source (B,C,r,c) holds every coarse cell that is read; weights (B,49,H,W) with columns next to each other, in any format;
 * result (B,C,H,W). Source and result are float32 or float64; both have their channels next to each other, or, if there are
 * at most 8 of them, their columns. */
FEATUP_API const char* featup_guided_double(const featup_tensor* source, const featup_tensor* weights,
                                            const featup_tensor* result, const featup_place* place, int32_t threads);

/* result[b,c,y,x]: the source between its rows rows[y] and rows[y] + 1, row_shares[y] of the way (0..1), and likewise its
 * columns; the line after the last counts as the last. source (B,C,h,w), result (B,C,H,W), layouts as above; H indices and
 * shares of rows, W of columns. */
FEATUP_API const char* featup_bilinear(const featup_tensor* source, const featup_tensor* result, const int64_t* rows,
                                       const double* row_shares, const int64_t* columns, const double* column_shares,
                                       int32_t threads);

/* A network of two layers at each pixel: result = skip * first + scale * (W2 gelu(W1 [first; second] + b1) + b2).
 * first (B,I,H,W), second (B,J,H,W) with J >= 0, weights1 (1,1,hidden,I+J), bias1 (1,1,1,hidden), weights2 (1,1,O,hidden),
 * bias2 (1,1,1,O), result (B,O,H,W); all float32 or all float64, columns next to each other, weights without gaps. With a
 * skip, first has at least O channels. */
FEATUP_API const char* featup_pixel_network(const featup_tensor* first, const featup_tensor* second,
                                            const featup_tensor* weights1, const featup_tensor* bias1,
                                            const featup_tensor* weights2, const featup_tensor* bias2,
                                            const featup_tensor* result, double skip, double scale, int32_t threads);

/* weights (B,T,H,W) in float32 to result in float16, columns of both next to each other: each tap takes over what rounding
 * lost at the one before it, so that the sum over the taps stays. */
FEATUP_API const char* featup_round_weights(const featup_tensor* weights, const featup_tensor* result, int32_t threads);

/* A yardstick for the speed of the others: each thread multiplies and adds float32 vectors in registers for so many rounds.
 * operations[0] becomes the number of multiplications and additions that were done. */
FEATUP_API const char* featup_multiply_add(int64_t rounds, int32_t threads, double* operations);

#ifdef __cplusplus
}
#endif

#endif
