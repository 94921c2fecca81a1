/* The upsampling operators on a CUDA device: a plain C interface over raw device pointers.
 *
 * Every operator enqueues its kernel on `stream` (a cudaStream_t) of the calling thread's current device and returns at once:
 * NULL, or a message that begins with the name of the argument that does not fit, or with "CUDA error". A message stays valid
 * until the same thread's next call. Nothing is allocated and no call waits for the device.
 *
 * Tensors: four sizes each, strides counted in elements as batch, channel (or tap), row, column; NULL strides mean contiguous.
 * Inputs may have any strides that are not negative; outputs are contiguous. `height` and `width` are those of the tensors
 * without padding: a padded tensor has kernel_size - 1 rows and columns more. Taps go row by row. kernel_size is odd: 3, 5 and 7
 * have kernels of their own, other sizes a plain one. float16 and bfloat16 are storage only, sums are taken in float32. */
#ifndef FEATUP_CUDA_H
#define FEATUP_CUDA_H

#include <stdint.h>

#if defined(_WIN32)
#define FEATUP_CUDA_API __declspec(dllexport)
#else
#define FEATUP_CUDA_API __attribute__((visibility("default")))
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* Raised whenever a function changes, so that a caller never passes arguments to an older library. */
#define FEATUP_CUDA_ABI_VERSION 2

enum featup_cuda_dtype {
  FEATUP_CUDA_FLOAT32 = 0,
  FEATUP_CUDA_FLOAT64 = 1,
  FEATUP_CUDA_FLOAT16 = 2,
  FEATUP_CUDA_BFLOAT16 = 3
};

FEATUP_CUDA_API int featup_cuda_abi_version(void);

/* Devices that can be used; 0 where there is no device or no driver. */
FEATUP_CUDA_API int featup_cuda_device_count(void);

/* A sentence about the devices and the driver, or about why there is none. */
FEATUP_CUDA_API const char* featup_cuda_status(void);

/* NULL if the library has code for this device, else a message that says why it cannot be used. */
FEATUP_CUDA_API const char* featup_cuda_device_problem(int device);

/* output (B, C, H, W): sum over the window of padded (B, C, H + k - 1, W + k - 1) times weights (B, k * k, H, W). */
FEATUP_CUDA_API const char* featup_cuda_window_sum(
    const void* padded, const int64_t* padded_strides, const void* weights, const int64_t* weights_strides, void* output,
    int64_t batch, int64_t channels, int64_t height, int64_t width, int64_t kernel_size, int dtype, void* stream);

/* grad_padded (B, C, H + k - 1, W + k - 1) from grad (B, C, H, W). Gathers, so that every run gives the same bits. */
FEATUP_CUDA_API const char* featup_cuda_window_sum_grad_input(
    const void* grad, const int64_t* grad_strides, const void* weights, const int64_t* weights_strides, void* grad_padded,
    int64_t batch, int64_t channels, int64_t height, int64_t width, int64_t kernel_size, int dtype, void* stream);

/* grad_weights (B, k * k, H, W), every tap, from grad (B, C, H, W). */
FEATUP_CUDA_API const char* featup_cuda_window_sum_grad_weights(
    const void* grad, const int64_t* grad_strides, const void* padded, const int64_t* padded_strides, void* grad_weights,
    int64_t batch, int64_t channels, int64_t height, int64_t width, int64_t kernel_size, int dtype, void* stream);

/* output (B, k * k, H, W): softmax over the window of the products of each key with its neighbours', times the temperature, plus
 * a bias for each tap; keys (B, D, H + k - 1, W + k - 1). The temperature is read on the device where temperature_on_device is
 * not NULL (one double for FEATUP_CUDA_FLOAT64, else one float), so that a learned one needs no copy to the host.
 * bias_on_device: k * k numbers of that type, or NULL for none. */
FEATUP_CUDA_API const char* featup_cuda_range_softmax(
    const void* keys, const int64_t* keys_strides, const void* temperature_on_device, double temperature,
    const void* bias_on_device, void* output, int64_t batch, int64_t channels, int64_t height, int64_t width, int64_t kernel_size,
    int dtype, void* stream);

/* output (B, k * k, H, W): Gaussians of distance (the window's side runs from -1 to 1) and of colour difference, normalised to
 * one over the window; guidance (B, D, H + k - 1, W + k - 1). */
FEATUP_CUDA_API const char* featup_cuda_bilateral_weights(
    const void* guidance, const int64_t* guidance_strides, double sigma_spatial, double sigma_range, void* output,
    int64_t batch, int64_t channels, int64_t height, int64_t width, int64_t kernel_size, int dtype, void* stream);

/* Where a guided doubling works: rows and columns of the whole coarse map, of which the source begins at (source_top,
 * source_left), and the fine row and column at which the output begins. As featup_place of featup_native.h. */
typedef struct featup_cuda_place {
  int64_t coarse_rows, coarse_columns;
  int64_t source_top, source_left;
  int64_t top, left;
} featup_cuda_place;

/* output (B, C, H, W): bicubic doubling (a = -0.75) of the coarse map, reflecting padding by 3 and sum over the 7 x 7 window times
 * weights (B, 49, H, W), in one pass. source (B, C, rows, columns) holds every cell within three of those that the output lies
 * in, as far as the map has them; place NULL: source is the whole map and output the whole fine map. */
FEATUP_CUDA_API const char* featup_cuda_guided_double(
    const void* source, const int64_t* source_strides, const void* weights, const int64_t* weights_strides, void* output,
    const featup_cuda_place* place, int64_t batch, int64_t channels, int64_t rows, int64_t columns, int64_t height, int64_t width,
    int dtype, void* stream);

#ifdef __cplusplus
}
#endif

#endif
