/* The upsampling operators on a CUDA device: a plain C interface over tensors in device memory. featup_native.h has
 * those for the processor under the same names.
 *
 * Every operator enqueues its kernel on `stream` (a cudaStream_t) of the calling thread's current device and returns at
 * once: NULL, or a message that begins with the name of the argument that does not fit, or with "CUDA error". A message
 * stays valid until the same thread's next call. Nothing is allocated and no call waits for the device.
 *
 * All tensors of a call have one number format. Inputs may have any strides that are not negative; outputs are
 * contiguous. Taps go row by row. kernel_size is odd: 3, 5 and 7 have kernels of their own, other sizes a plain one. */
#ifndef FEATUP_CUDA_H
#define FEATUP_CUDA_H

#include "featup_tensor.h"

#ifdef __cplusplus
extern "C" {
#endif

FEATUP_API int32_t featup_cuda_abi_version(void);

/* Devices that can be used; 0 where there is no device or no driver. */
FEATUP_API int32_t featup_cuda_device_count(void);

/* A sentence about the devices and the driver, or about why there is none. */
FEATUP_API const char* featup_cuda_status(void);

/* NULL if the library has code for this device, else a message that says why it cannot be used. */
FEATUP_API const char* featup_cuda_device_problem(int32_t device);

/* output (B, C, H, W): sum over the window of padded (B, C, H + k - 1, W + k - 1) times weights (B, k * k, H, W). */
FEATUP_API const char* featup_cuda_window_sum(const featup_tensor* padded, const featup_tensor* weights,
                                              const featup_tensor* output, int32_t kernel_size, void* stream);

/* Its gradient to padded: grad_input (B, C, H + k - 1, W + k - 1) from grad (B, C, H, W). Gathers, so that every run
 * gives the same bits. */
FEATUP_API const char* featup_cuda_window_sum_grad_input(const featup_tensor* grad, const featup_tensor* weights,
                                                         const featup_tensor* grad_input, int32_t kernel_size,
                                                         void* stream);

/* Its gradient to weights: grad_weights (B, k * k, H, W), every tap, from padded and grad (B, C, H, W). */
FEATUP_API const char* featup_cuda_window_sum_grad_weights(const featup_tensor* padded, const featup_tensor* grad,
                                                           const featup_tensor* grad_weights, int32_t kernel_size,
                                                           void* stream);

/* output (B, k * k, H, W): softmax over the window of the products of each key with its neighbours', times the
 * temperature, plus a bias for each tap; keys (B, D, H + k - 1, W + k - 1). The temperature is read on the device where
 * temperature_on_device is not NULL (one double for FEATUP_FLOAT64, else one float), so that a learned one needs no
 * copy to the host. bias_on_device: k * k numbers of that type, or NULL for none. */
FEATUP_API const char* featup_cuda_range_softmax(const featup_tensor* keys, const void* temperature_on_device,
                                                 double temperature, const void* bias_on_device,
                                                 const featup_tensor* output, int32_t kernel_size, void* stream);

/* output (B, k * k, H, W): Gaussians of distance (the window's side runs from -1 to 1) and of colour difference,
 * normalised to one over the window; guidance (B, D, H + k - 1, W + k - 1). */
FEATUP_API const char* featup_cuda_bilateral_weights(const featup_tensor* guidance, double sigma_spatial,
                                                     double sigma_range, const featup_tensor* output,
                                                     int32_t kernel_size, void* stream);

/* output (B, C, H, W): bicubic doubling (a = -0.75) of the coarse map, reflecting padding by 3 and sum over the 7 x 7
 * window times weights (B, 49, H, W), in one pass. source (B, C, rows, columns) holds every cell within three of those
 * that the output lies in, as far as the map has them. */
FEATUP_API const char* featup_cuda_guided_double(const featup_tensor* source, const featup_tensor* weights,
                                                 const featup_tensor* output, const featup_place* place, void* stream);

/* output (B, C, H, W): attention to the window of k x k coarse cells around the one that each pixel lies in, as
 * featup_cell_attention in featup_native.h. Cells are int64 in device memory, in the grid and not decreasing; they are
 * not checked. */
FEATUP_API const char* featup_cuda_cell_attention(const featup_tensor* queries, const featup_tensor* keys,
                                                  const featup_tensor* values, const featup_tensor* row_logits,
                                                  const featup_tensor* column_logits, const int64_t* row_cells,
                                                  const int64_t* column_cells, const featup_tensor* output,
                                                  void* stream);

/* The weights themselves: output (B, k * k, H, W), 0 where there is no cell. */
FEATUP_API const char* featup_cuda_cell_attention_weights(const featup_tensor* queries, const featup_tensor* keys,
                                                          const featup_tensor* row_logits,
                                                          const featup_tensor* column_logits, const int64_t* row_cells,
                                                          const int64_t* column_cells, const featup_tensor* output,
                                                          void* stream);

/* The gradients to queries, keys and values, in their shapes, from grad (B, C, H, W). weights and grad_logits (B, k *
 * k, H, W), in the number format of sums, become the weights and the gradient of their logits, whose sums are the
 * gradients of row_logits and column_logits. grad_values may be NULL, and is not computed then. Nothing is written where
 * grad is empty. Every run gives the same bits. */
FEATUP_API const char* featup_cuda_cell_attention_backward(
    const featup_tensor* queries, const featup_tensor* keys, const featup_tensor* values,
    const featup_tensor* row_logits, const featup_tensor* column_logits, const int64_t* row_cells,
    const int64_t* column_cells, const featup_tensor* grad, const featup_tensor* weights,
    const featup_tensor* grad_logits, const featup_tensor* grad_queries, const featup_tensor* grad_keys,
    const featup_tensor* grad_values, void* stream);

#ifdef __cplusplus
}
#endif

#endif
