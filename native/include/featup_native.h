/* The compiled operators on the processor: a plain C interface. featup_cuda.h has those for CUDA devices under the same
 * names.
 *
 * Every function that computes returns NULL, or a message that names the argument that is wrong. The message belongs to
 * the calling thread and is valid until its next call. Nothing is thrown, and nothing is written when a message is
 * returned, unless memory runs out half-way (the message then says so).
 *
 * Outputs must not overlap with inputs. The functions may be called from several threads at once.
 */
#ifndef FEATUP_NATIVE_H
#define FEATUP_NATIVE_H

#include "featup_tensor.h"

#ifdef __cplusplus
extern "C" {
#endif

FEATUP_API int32_t featup_abi_version(void);

/* "AVX-512", "AVX2" or "baseline": what the functions below run on. */
FEATUP_API const char* featup_instruction_set(void);

/* Choose one of those by name ("best" for what this processor does fastest). Meant for tests: it holds for the process.
 */
FEATUP_API const char* featup_use_instruction_set(const char* name);

/* output[b,c,y,x] = sum over taps (dy,dx) of padded[b,c,y+dy,x+dx] * weights[b,dy*k+dx,y,x].
 * padded (B,C,H+k-1,W+k-1), weights (B,k*k,H,W), output (B,C,H,W) in the dtype of padded; k odd. */
FEATUP_API const char* featup_window_sum(const featup_tensor* padded, const featup_tensor* weights,
                                         const featup_tensor* output, int32_t kernel_size, int32_t threads);

/* Its gradient to padded: grad (B,C,H,W) spread over the windows; grad_input (B,C,H+k-1,W+k-1) in the dtype of grad. */
FEATUP_API const char* featup_window_sum_grad_input(const featup_tensor* grad, const featup_tensor* weights,
                                                    const featup_tensor* grad_input, int32_t kernel_size,
                                                    int32_t threads);

/* Its gradient to weights: grad_weights[b,dy*k+dx,y,x] = sum over c of padded[b,c,y+dy,x+dx] * grad[b,c,y,x]. */
FEATUP_API const char* featup_window_sum_grad_weights(const featup_tensor* padded, const featup_tensor* grad,
                                                      const featup_tensor* grad_weights, int32_t kernel_size,
                                                      int32_t threads);

/* Softmax over the taps of temperature * (key of the pixel . key of its neighbour) + bias[tap].
 * keys (B,D,H+k-1,W+k-1) with columns next to each other, bias (k*k) of doubles, output (B,k*k,H,W); float32 or
 * float64. */
FEATUP_API const char* featup_range_softmax(const featup_tensor* keys, double temperature, const double* bias,
                                            const featup_tensor* output, int32_t kernel_size, int32_t threads);

/* exp(scale * squared distance of the colours + bias[tap]), divided by its sum over the taps.
 * guidance (B,D,H+k-1,W+k-1) with columns next to each other; output (B,k*k,H,W); float32 or float64. */
FEATUP_API const char* featup_bilateral_weights(const featup_tensor* guidance, double scale, const double* bias,
                                                const featup_tensor* output, int32_t kernel_size, int32_t threads);

/* Bicubic doubling of the coarse map, reflecting padding by 3 and window sum with 7 x 7 weights, in one pass.
 * source (B,C,r,c) holds every coarse cell that is read; weights (B,49,H,W) with columns next to each other, in any
 * format; output (B,C,H,W). Source and output are float32 or float64; both have their channels next to each other, or,
 * if there are at most 8 of them, their columns. */
FEATUP_API const char* featup_guided_double(const featup_tensor* source, const featup_tensor* weights,
                                            const featup_tensor* output, const featup_place* place, int32_t threads);

/* output[b,c,y,x]: the source between its rows rows[y] and rows[y] + 1, row_shares[y] of the way (0..1), and likewise
 * its columns; the line after the last counts as the last. source (B,C,h,w), output (B,C,H,W), layouts as above; H
 * indices and shares of rows, W of columns. */
FEATUP_API const char* featup_bilinear(const featup_tensor* source, const featup_tensor* output, const int64_t* rows,
                                       const double* row_shares, const int64_t* columns, const double* column_shares,
                                       int32_t threads);

/* A network of two layers at each pixel: output = skip * first + scale * (W2 gelu(W1 [first; second] + b1) + b2).
 * first (B,I,H,W), second (B,J,H,W) with J >= 0, weights1 (1,1,hidden,I+J), bias1 (1,1,1,hidden), weights2
 * (1,1,O,hidden), bias2 (1,1,1,O), output (B,O,H,W); all float32 or all float64, columns next to each other, weights
 * without gaps. With a skip, first has at least O channels. */
FEATUP_API const char* featup_pixel_network(const featup_tensor* first, const featup_tensor* second,
                                            const featup_tensor* weights1, const featup_tensor* bias1,
                                            const featup_tensor* weights2, const featup_tensor* bias2,
                                            const featup_tensor* output, double skip, double scale, int32_t threads);

/* Attention of output pixels to a window of k x k coarse cells around the one that each lies in, row_cells[y] and
 * column_cells[x]: output[b,c,y,x] = sum over taps (i,j) of w * values[b,c,row_cells[y]+i-k/2,column_cells[x]+j-k/2],
 * where w is the softmax of (query of the pixel . key of that cell) + row_logits[y,i] + column_logits[x,j] over the
 * taps whose cell exists. queries (B,E,H,W), keys (B,E,h,w), values (B,C,h,w), row_logits (1,1,H,k), column_logits
 * (1,1,W,k), output (B,C,H,W); all float32 or all float64. Columns of the queries lie next to each other; values and
 * output as above. Cells do not decrease. Logits of -inf give no weight; that of the own cell is finite. */
FEATUP_API const char* featup_cell_attention(const featup_tensor* queries, const featup_tensor* keys,
                                             const featup_tensor* values, const featup_tensor* row_logits,
                                             const featup_tensor* column_logits, const int64_t* row_cells,
                                             const int64_t* column_cells, const featup_tensor* output, int32_t threads);

/* The weights w themselves: output (B,k*k,H,W), columns next to each other; 0 where there is no cell. */
FEATUP_API const char* featup_cell_attention_weights(const featup_tensor* queries, const featup_tensor* keys,
                                                     const featup_tensor* row_logits,
                                                     const featup_tensor* column_logits, const int64_t* row_cells,
                                                     const int64_t* column_cells, const featup_tensor* output,
                                                     int32_t threads);

/* The gradients of featup_cell_attention to its five tensors, from that to its output, grad (B,C,H,W); in their shapes
 * and number format. grad_queries has its columns next to each other, grad_values its channels or columns as values;
 * it may be NULL, and is not computed then. */
FEATUP_API const char* featup_cell_attention_backward(const featup_tensor* queries, const featup_tensor* keys,
                                                      const featup_tensor* values, const featup_tensor* row_logits,
                                                      const featup_tensor* column_logits, const int64_t* row_cells,
                                                      const int64_t* column_cells, const featup_tensor* grad,
                                                      const featup_tensor* grad_queries, const featup_tensor* grad_keys,
                                                      const featup_tensor* grad_values,
                                                      const featup_tensor* grad_row_logits,
                                                      const featup_tensor* grad_column_logits, int32_t threads);

/* weights (B,T,H,W) in float32 to output in float16, columns of both next to each other: the rounding error of each
 * tap is carried to the next, so that the sum over the taps is kept. */
FEATUP_API const char* featup_round_weights(const featup_tensor* weights, const featup_tensor* output, int32_t threads);

/* The peak of arithmetic, to compare the others with: in each of `rounds`, every thread multiplies and adds float32
 * vectors in registers. operations[0] becomes the number of multiplications and additions that were done. */
FEATUP_API const char* featup_multiply_add(int64_t rounds, int32_t threads, double* operations);

#ifdef __cplusplus
}
#endif

#endif
