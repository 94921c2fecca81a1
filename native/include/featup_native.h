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

#define FEATUP_ABI_VERSION 1

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

#ifdef __cplusplus
}
#endif

#endif
