// The weighted sum over a window around each pixel, and its gradient to the input.
//
// Both are one pass: a pixel of the output has k * k weights, the same for all channels, and a window of the input. The
// weights stay in registers while one group of channels after the other is loaded into shared memory. For the gradient
// the window lies above and to the left of the pixel and the weights are those of that pixel in its neighbours' sums.

#include "call.cuh"

namespace featup {

// The address of the weight of the window's element (row, column), counted from the window's top left corner, in the
// sum for the output pixel (y, x); NULL if it lies outside.
template <bool Gradient, class T>
__device__ inline const T* weight_of(const T* weights, const Strides& strides, int kernel_size, int row, int column,
                                     int y, int x, int height, int width) {
  int tap = row * kernel_size + column;
  if (Gradient) {
    tap = kernel_size * kernel_size - 1 - tap;
    y += row - (kernel_size - 1);
    x += column - (kernel_size - 1);
  }
  if (y < 0 || y >= height || x < 0 || x >= width) return nullptr;
  return weights + tap * strides.channel + y * strides.row + x * strides.column;
}

// One block computes a tile of the output, for `share` channels of one image. `sizes` are those without padding; the
// input is padded and the output is not, for the gradient the other way round.
template <class T, int K, int Pixels, bool Gradient>
__global__ void __launch_bounds__(kThreads, resident_blocks<typename Sum<T>::Type>())
    window_pass(const T* input, Strides input_strides, const T* weights, Strides weights_strides, T* output,
                Sizes sizes, int64_t share) {
  using Total = typename Sum<T>::Type;
  using Shape = Tile<K, Pixels>;
  FEATUP_SHARED(Total, tile, Shape::kCount);

  const int height = static_cast<int>(sizes.height), width = static_cast<int>(sizes.width);
  const int input_height = height + (Gradient ? 0 : K - 1), input_width = width + (Gradient ? 0 : K - 1);
  const int output_height = height + (Gradient ? K - 1 : 0), output_width = width + (Gradient ? K - 1 : 0);
  const Tiling tiling = Tiling::of(output_height, output_width, Shape::kPixelRows);
  const int64_t shares = (sizes.channels + share - 1) / share;

  for (int64_t item = blockIdx.x; item < tiling.count * shares * sizes.batch; item += gridDim.x) {
    const int64_t image = item / (tiling.count * shares);
    const int first = static_cast<int>(item / tiling.count % shares * share);
    const int end = static_cast<int>(first + share < sizes.channels ? first + share : sizes.channels);
    const int top = static_cast<int>(item % tiling.count / tiling.across) * Shape::kPixelRows;
    const int left = static_cast<int>(item % tiling.count % tiling.across) * kColumns;
    const int x = left + static_cast<int>(threadIdx.x);
    const int y = top + static_cast<int>(threadIdx.y) * Pixels;

    Total weight[Pixels][K * K];
    const T* tap = weights + image * weights_strides.batch + y * weights_strides.row + x * weights_strides.column;
#pragma unroll
    for (int element = 0; element < K * K; ++element) {
#pragma unroll
      for (int pixel = 0; pixel < Pixels; ++pixel) {
        if (Gradient) {
          const T* at = weight_of<true>(weights + image * weights_strides.batch, weights_strides, K, element / K,
                                        element % K, y + pixel, x, height, width);
          weight[pixel][element] = at != nullptr ? load(at) : Total(0);
        } else {
          weight[pixel][element] = x < width && y + pixel < height ? load(tap + pixel * weights_strides.row) : Total(0);
        }
      }
      tap += weights_strides.channel;  // one address: there are no registers for k * k of them
    }

    const bool inside = x < output_width;
    const int rows = output_height - y;  // of the output, from this thread's first pixel on
    T* out = output + ((image * sizes.channels + first) * output_height + y) * output_width + x;
#pragma unroll 1
    for (int channel = first; channel < end; channel += kStage) {
      const int channels = end - channel < kStage ? end - channel : kStage;
      load_tile<Shape, Outside::zero>(tile, input + image * input_strides.batch + channel * input_strides.channel,
                                      input_strides, channels, top - (Gradient ? K - 1 : 0),
                                      left - (Gradient ? K - 1 : 0), input_height, input_width);
      tile_is_filled();
#pragma unroll 1
      for (int plane = 0; plane < channels; ++plane) {
        const Total* window = tile + plane * Shape::kPlane + threadIdx.y * Pixels * Shape::kWidth + threadIdx.x;
        Total total[Pixels] = {};
#pragma unroll
        for (int row = 0; row < K + Pixels - 1; ++row) {
#pragma unroll
          for (int column = 0; column < K; ++column) {
            const Total value = window[row * Shape::kWidth + column];
#pragma unroll
            for (int pixel = 0; pixel < Pixels; ++pixel)
              if (row >= pixel && row < pixel + K) total[pixel] += value * weight[pixel][(row - pixel) * K + column];
          }
        }
#pragma unroll
        for (int pixel = 0; pixel < Pixels; ++pixel)
          if (inside && pixel < rows) store(out + int64_t(pixel) * output_width, total[pixel]);
        out += int64_t(output_height) * output_width;
      }
      __syncthreads();  // before the tile is overwritten
    }
  }
}

// The same for any kernel size: one thread computes a pixel of up to kStage channels and reads everything from global
// memory.
template <class T, bool Gradient>
__global__ void __launch_bounds__(kThreads)
    window_pass_any(const T* input, Strides input_strides, const T* weights, Strides weights_strides, T* output,
                    Sizes sizes, int kernel_size) {
  using Total = typename Sum<T>::Type;
  const int edge = kernel_size - 1;
  const int height = static_cast<int>(sizes.height), width = static_cast<int>(sizes.width);
  const int input_height = height + (Gradient ? 0 : edge), input_width = width + (Gradient ? 0 : edge);
  const int output_height = height + (Gradient ? edge : 0), output_width = width + (Gradient ? edge : 0);
  const int64_t pixels = int64_t(output_height) * output_width;
  const int64_t stages = (sizes.channels + kStage - 1) / kStage;
  const int64_t step = int64_t(gridDim.x) * kThreads;
  for (int64_t index = int64_t(blockIdx.x) * kThreads + threadIdx.x; index < pixels * stages * sizes.batch;
       index += step) {
    const int64_t image = index / (pixels * stages);
    const int64_t first = index / pixels % stages * kStage;
    const int channels = sizes.channels - first < kStage ? static_cast<int>(sizes.channels - first) : kStage;
    const int y = static_cast<int>(index % pixels / output_width), x = static_cast<int>(index % pixels % output_width);
    const T* source = input + image * input_strides.batch + first * input_strides.channel;
    Total total[kStage] = {};
    for (int row = 0; row < kernel_size; ++row) {
      for (int column = 0; column < kernel_size; ++column) {
        const int from_y = y + row - (Gradient ? edge : 0), from_x = x + column - (Gradient ? edge : 0);
        if (from_y < 0 || from_y >= input_height || from_x < 0 || from_x >= input_width) continue;
        const T* at = weight_of<Gradient>(weights + image * weights_strides.batch, weights_strides, kernel_size, row,
                                          column, y, x, height, width);
        const Total weight = at != nullptr ? load(at) : Total(0);
        const T* value = source + from_y * input_strides.row + from_x * input_strides.column;
#pragma unroll
        for (int plane = 0; plane < kStage; ++plane)
          if (plane < channels) total[plane] += weight * load(value + plane * input_strides.channel);
      }
    }
#pragma unroll
    for (int plane = 0; plane < kStage; ++plane)
      if (plane < channels)
        store(output + (image * sizes.channels + first + plane) * pixels + index % pixels, total[plane]);
  }
}

template <bool Gradient>
const char* run_window_pass(const Named& input, const Named& weights, const Named& output, int32_t kernel_size,
                            void* stream) {
  const Named& padded = Gradient ? output : input;
  const Named& unpadded = Gradient ? input : output;
  if (const char* error = check_window_sum(padded, weights, unpadded, kernel_size, kLargestKernel)) return error;
  if (const char* error = check_for_cuda({input, weights}, output, kernel_size)) return error;
  if (is_empty(*output.tensor)) return nullptr;
  const Sizes sizes = sizes_of(*unpadded.tensor);
  const Strides input_strides = strides_of(*input.tensor), weights_strides = strides_of(*weights.tensor);
  const int64_t output_height = output.tensor->size[2], output_width = output.tensor->size[3];
  return with_dtype(output.tensor->dtype, [&](auto storage) {
    using T = decltype(storage);
    using Total = typename Sum<T>::Type;  // not in the inner lambda, where GCC 12 mistakes T for const T
    const T *from = static_cast<const T*>(input.tensor->data), *by = static_cast<const T*>(weights.tensor->data);
    T* to = static_cast<T*>(output.tensor->data);
    return with_kernel_size(kernel_size, [&](auto constant) {
      constexpr int K = decltype(constant)::value;
      if constexpr (K != 0) {
        constexpr int Pixels = pixels_per_thread<Total, K>();
        const int64_t tiles = Tiling::of(output_height, output_width, Tile<K, Pixels>::kPixelRows).count;
        const int64_t share = channel_share(sizes, tiles);
        const int64_t items = tiles * sizes.batch * ((sizes.channels + share - 1) / share);
        launch(window_pass<T, K, Pixels, Gradient>, blocks_for(items), dim3(kColumns, kLanes), stream, from,
               input_strides, by, weights_strides, to, sizes, share);
      } else {
        const int64_t items = sizes.batch * ((sizes.channels + kStage - 1) / kStage) * output_height * output_width;
        launch(window_pass_any<T, Gradient>, blocks_for((items + kThreads - 1) / kThreads), dim3(kThreads), stream,
               from, input_strides, by, weights_strides, to, sizes, kernel_size);
      }
      return launched();
    });
  });
}

}  // namespace featup

using namespace featup;

extern "C" const char* featup_cuda_window_sum(const featup_tensor* padded, const featup_tensor* weights,
                                              const featup_tensor* output, int32_t kernel_size, void* stream) {
  return run_window_pass<false>({"padded", padded}, {"weights", weights}, {"output", output}, kernel_size, stream);
}

extern "C" const char* featup_cuda_window_sum_grad_input(const featup_tensor* grad, const featup_tensor* weights,
                                                         const featup_tensor* grad_input, int32_t kernel_size,
                                                         void* stream) {
  return run_window_pass<true>({"grad", grad}, {"weights", weights}, {"grad_input", grad_input}, kernel_size, stream);
}
