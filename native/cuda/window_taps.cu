// Operators that compute one number for each tap of the window around each pixel, summed over the channels: the
// gradient to the weights of the window sum, the softmax of products of keys, and the classical bilateral weights.
//
// The k * k sums stay in registers while one group of channels after the other is loaded into shared memory, so that no
// unfolded input is stored.

#include <cmath>

#include "call.cuh"

namespace featup {

enum Operator { kGradWeights, kRangeSoftmax, kBilateral };

// Turns the sums into the operator's result.
template <class Total>
struct Finish {
  const Total* temperature_on_device;  // or NULL, then
  Total temperature;
  const Total* bias;  // one for each tap, or NULL
  Total spatial;  // the spatial Gaussian's logarithm for a tap next to the centre, times its squared distance in taps
  Total range;    // factor of the squared colour difference

  __device__ Total factor() const { return temperature_on_device != nullptr ? *temperature_on_device : temperature; }
  __device__ Total logit(Total product, Total scale, int tap) const {
    return product * scale + (bias != nullptr ? bias[tap] : Total(0));
  }
  __device__ Total bilateral(Total squared, int row, int column, int radius) const {
    const int y = row - radius, x = column - radius;
    return exponential(squared * range + spatial * Total(y * y + x * x));
  }
};

// The sum of a tap after one more channel. `middle` is the gradient for kGradWeights, else the value at the pixel
// itself.
template <Operator Kind, class Total>
__device__ inline Total one_channel(Total sum, Total middle, Total value) {
  if (Kind != kBilateral) return sum + middle * value;
  const Total difference = value - middle;
  return sum + difference * difference;
}

// The sums of one pixel's taps: in registers, which only unrolled loops can address, or in the output.
template <class Total>
struct InRegisters {
  static constexpr int kUnroll = 256;
  Total* sums;
  __device__ Total get(int tap) const { return sums[tap]; }
  __device__ void set(int tap, Total value) const { sums[tap] = value; }
};
template <class T>
struct InMemory {
  static constexpr int kUnroll = 1;
  T* output;
  int64_t step;
  __device__ typename Sum<T>::Type get(int tap) const { return load(output + tap * step); }
  __device__ void set(int tap, typename Sum<T>::Type value) const { store(output + tap * step, value); }
};

// From sums to weights that add up to one.
template <Operator Kind, int K, class Total, class Sums>
__device__ inline void normalise(const Finish<Total>& finish, Sums sums) {
  Total most = 0, all = 0;
  if (Kind == kRangeSoftmax) {
    const Total temperature = finish.factor();
#pragma unroll Sums::kUnroll
    for (int tap = 0; tap < K * K; ++tap) {
      const Total logit = finish.logit(sums.get(tap), temperature, tap);
      sums.set(tap, logit);
      most = tap == 0 || logit > most ? logit : most;
    }
  }
#pragma unroll Sums::kUnroll
  for (int tap = 0; tap < K * K; ++tap) {
    const Total weight = Kind == kRangeSoftmax ? exponential(sums.get(tap) - most)
                                               : finish.bilateral(sums.get(tap), tap / K, tap % K, K / 2);
    sums.set(tap, weight);
    all += weight;
  }
  const Total scale = Total(1) / all;
#pragma unroll Sums::kUnroll
  for (int tap = 0; tap < K * K; ++tap) sums.set(tap, sums.get(tap) * scale);
}

template <class T, int K, int Pixels, Operator Kind>
__global__ void __launch_bounds__(kThreads, resident_blocks<typename Sum<T>::Type>())
    window_taps(const T* padded, Strides strides, const T* grad, Strides grad_strides, T* output, Sizes sizes,
                Finish<typename Sum<T>::Type> finish) {
  using Total = typename Sum<T>::Type;
  using Shape = Tile<K, Pixels>;
  constexpr int radius = K / 2;
  FEATUP_SHARED(Total, tile, Shape::kCount);
  const int height = static_cast<int>(sizes.height), width = static_cast<int>(sizes.width);
  const Tiling tiling = Tiling::of(height, width, Shape::kPixelRows);

  for (int64_t item = blockIdx.x; item < tiling.count * sizes.batch; item += gridDim.x) {
    const int64_t image = item / tiling.count;
    const int top = static_cast<int>(item % tiling.count / tiling.across) * Shape::kPixelRows;
    const int left = static_cast<int>(item % tiling.count % tiling.across) * kColumns;
    const int x = left + static_cast<int>(threadIdx.x);
    const int y = top + static_cast<int>(threadIdx.y) * Pixels;

    Total sum[Pixels][K * K] = {};
    for (int64_t channel = 0; channel < sizes.channels; channel += kStage) {
      const int channels = sizes.channels - channel < kStage ? static_cast<int>(sizes.channels - channel) : kStage;
      load_tile<Shape, Outside::zero>(tile, padded + image * strides.batch + channel * strides.channel, strides,
                                      channels, top, left, height + K - 1, width + K - 1);
      tile_is_filled();
#pragma unroll 1
      for (int plane = 0; plane < channels; ++plane) {
        const Total* window = tile + plane * Shape::kPlane + threadIdx.y * Pixels * Shape::kWidth + threadIdx.x;
        Total middle[Pixels];
#pragma unroll
        for (int pixel = 0; pixel < Pixels; ++pixel) {
          if (Kind != kGradWeights) {
            middle[pixel] = window[(radius + pixel) * Shape::kWidth + radius];
          } else {
            const T* at = grad + image * grad_strides.batch + (channel + plane) * grad_strides.channel +
                          (y + pixel) * grad_strides.row + x * grad_strides.column;
            middle[pixel] = x < width && y + pixel < height ? load(at) : Total(0);
          }
        }
#pragma unroll
        for (int row = 0; row < K + Pixels - 1; ++row) {
#pragma unroll
          for (int column = 0; column < K; ++column) {
            const Total value = window[row * Shape::kWidth + column];
#pragma unroll
            for (int pixel = 0; pixel < Pixels; ++pixel) {
              if (row < pixel || row >= pixel + K) continue;
              Total& tap = sum[pixel][(row - pixel) * K + column];
              tap = one_channel<Kind>(tap, middle[pixel], value);
            }
          }
        }
      }
      __syncthreads();  // before the tile is overwritten
    }

#pragma unroll
    for (int pixel = 0; pixel < Pixels; ++pixel) {
      if (x >= width || y + pixel >= height) continue;
      const int64_t step = int64_t(height) * width;
      T* out = output + (image * K * K * height + y + pixel) * width + x;
      if (Kind == kGradWeights || sizeof(Total) == 8) {
#pragma unroll
        for (int tap = 0; tap < K * K; ++tap) store(out + tap * step, sum[pixel][tap]);
        // In float64 the sums and their exponentials do not fit into registers together: they are finished in memory.
        if (Kind != kGradWeights) normalise<Kind, K>(finish, InMemory<T>{out, step});
      } else {
        normalise<Kind, K>(finish, InRegisters<Total>{sum[pixel]});
#pragma unroll
        for (int tap = 0; tap < K * K; ++tap) store(out + tap * step, sum[pixel][tap]);
      }
    }
  }
}

// One tap's sum, all channels, from global memory.
template <Operator Kind, class T>
__device__ typename Sum<T>::Type sum_of_tap(const T* window, const Strides& strides, const T* middle,
                                            const Strides& middle_strides, int64_t channels, int row, int column) {
  using Total = typename Sum<T>::Type;
  const T* value = window + row * strides.row + column * strides.column;
  Total sum = 0;
  for (int64_t channel = 0; channel < channels; ++channel)
    sum = one_channel<Kind>(sum, load(middle + channel * middle_strides.channel),
                            load(value + channel * strides.channel));
  return sum;
}

// The same for any kernel size: a thread for each tap of each pixel (gradient), or for each pixel. The latter computes
// every sum twice, first for the normalisation, because there may be too many to keep.
template <class T, Operator Kind>
__global__ void __launch_bounds__(kThreads)
    window_taps_any(const T* padded, Strides strides, const T* grad, Strides grad_strides, T* output, Sizes sizes,
                    Finish<typename Sum<T>::Type> finish, int kernel_size) {
  using Total = typename Sum<T>::Type;
  const int radius = kernel_size / 2, taps = kernel_size * kernel_size;
  const int64_t pixels = sizes.height * sizes.width;
  const int64_t per_image = Kind == kGradWeights ? pixels * taps : pixels;
  const int64_t step = int64_t(gridDim.x) * kThreads;
  const Total temperature = Kind == kRangeSoftmax ? finish.factor() : Total(1);
  for (int64_t index = int64_t(blockIdx.x) * kThreads + threadIdx.x; index < per_image * sizes.batch; index += step) {
    const int64_t image = index / per_image, y = index % pixels / sizes.width, x = index % pixels % sizes.width;
    const T* window = padded + image * strides.batch + y * strides.row + x * strides.column;
    if (Kind == kGradWeights) {
      const int tap = static_cast<int>(index / pixels % taps);
      const T* middle = grad + image * grad_strides.batch + y * grad_strides.row + x * grad_strides.column;
      store(output + index, sum_of_tap<Kind>(window, strides, middle, grad_strides, sizes.channels, tap / kernel_size,
                                             tap % kernel_size));
      continue;
    }
    const T* middle = window + radius * strides.row + radius * strides.column;
    Total most = 0, all = 0;
    for (int tap = 0; tap < taps; ++tap) {
      const int row = tap / kernel_size, column = tap % kernel_size;
      const Total sum = sum_of_tap<Kind>(window, strides, middle, strides, sizes.channels, row, column);
      if (Kind == kBilateral) {
        all += finish.bilateral(sum, row, column, radius);
        continue;
      }
      const Total logit = finish.logit(sum, temperature, tap);
      if (tap == 0) most = logit;
      if (logit > most) {  // the total so far was relative to the smaller maximum
        all *= exponential(most - logit);
        most = logit;
      }
      all += exponential(logit - most);
    }
    const Total scale = Total(1) / all;
    for (int tap = 0; tap < taps; ++tap) {
      const int row = tap / kernel_size, column = tap % kernel_size;
      const Total sum = sum_of_tap<Kind>(window, strides, middle, strides, sizes.channels, row, column);
      const Total value = Kind == kBilateral ? finish.bilateral(sum, row, column, radius)
                                             : exponential(finish.logit(sum, temperature, tap) - most);
      store(output + (image * taps + tap) * pixels + index % pixels, value * scale);
    }
  }
}

struct Factors {
  const void *temperature_on_device, *bias_on_device;
  double temperature, spatial, range;
};

// The tensors have been checked; `grad` is NULL except for kGradWeights.
template <Operator Kind>
const char* run_window_taps(const featup_tensor& padded, const featup_tensor* grad, const featup_tensor& output,
                            const Factors& factors, int32_t kernel_size, void* stream) {
  if (is_empty(output)) return nullptr;
  const Sizes sizes{output.size[0], padded.size[1], output.size[2], output.size[3]};
  const Strides strides = strides_of(padded), grad_strides = grad != nullptr ? strides_of(*grad) : strides;
  return with_dtype(output.dtype, [&](auto storage) {
    using T = decltype(storage);
    using Total = typename Sum<T>::Type;
    const T* from = static_cast<const T*>(padded.data);
    const T* by = grad != nullptr ? static_cast<const T*>(grad->data) : nullptr;
    T* to = static_cast<T*>(output.data);
    const Finish<Total> finish{static_cast<const Total*>(factors.temperature_on_device),
                               static_cast<Total>(factors.temperature),
                               static_cast<const Total*>(factors.bias_on_device), static_cast<Total>(factors.spatial),
                               static_cast<Total>(factors.range)};
    return with_kernel_size(kernel_size, [&](auto constant) {
      constexpr int K = decltype(constant)::value;
      if constexpr (K != 0) {
        constexpr int Pixels = pixels_per_thread<Total, K>();
        const int64_t items = Tiling::of(sizes.height, sizes.width, Tile<K, Pixels>::kPixelRows).count * sizes.batch;
        launch(window_taps<T, K, Pixels, Kind>, blocks_for(items), dim3(kColumns, kLanes), stream, from, strides, by,
               grad_strides, to, sizes, finish);
      } else {
        const int64_t items =
            sizes.batch * sizes.height * sizes.width * (Kind == kGradWeights ? kernel_size * kernel_size : 1);
        launch(window_taps_any<T, Kind>, blocks_for((items + kThreads - 1) / kThreads), dim3(kThreads), stream, from,
               strides, by, grad_strides, to, sizes, finish, kernel_size);
      }
      return launched();
    });
  });
}

// The checks that the two operators which make weights share.
inline const char* check_weights_call(const Named& padded, const Named& output, int32_t kernel_size) {
  if (const char* error = check_window_weights(padded, output, kernel_size, kLargestKernel)) return error;
  return check_for_cuda({padded}, output, kernel_size);
}

}  // namespace featup

using namespace featup;

extern "C" const char* featup_cuda_window_sum_grad_weights(const featup_tensor* padded, const featup_tensor* grad,
                                                           const featup_tensor* grad_weights, int32_t kernel_size,
                                                           void* stream) {
  const Named input{"padded", padded}, centre{"grad", grad}, output{"grad_weights", grad_weights};
  if (const char* error = check_window_sum(input, output, centre, kernel_size, kLargestKernel)) return error;
  if (const char* error = check_for_cuda({input, centre}, output, kernel_size)) return error;
  return run_window_taps<kGradWeights>(*padded, grad, *grad_weights, {nullptr, nullptr, 1, 0, 0}, kernel_size, stream);
}

extern "C" const char* featup_cuda_range_softmax(const featup_tensor* keys, const void* temperature_on_device,
                                                 double temperature, const void* bias_on_device,
                                                 const featup_tensor* output, int32_t kernel_size, void* stream) {
  if (const char* error = check_weights_call({"keys", keys}, {"output", output}, kernel_size)) return error;
  if (temperature_on_device != nullptr)
    if (const char* error = check_on_device("temperature", temperature_on_device)) return error;
  if (bias_on_device != nullptr)
    if (const char* error = check_on_device("bias", bias_on_device)) return error;
  return run_window_taps<kRangeSoftmax>(
      *keys, nullptr, *output, {temperature_on_device, bias_on_device, temperature, 0, 0}, kernel_size, stream);
}

extern "C" const char* featup_cuda_bilateral_weights(const featup_tensor* guidance, double sigma_spatial,
                                                     double sigma_range, const featup_tensor* output,
                                                     int32_t kernel_size, void* stream) {
  if (const char* error = check_weights_call({"guidance", guidance}, {"output", output}, kernel_size)) return error;
  if (!(sigma_spatial > 0)) return message("sigma_spatial is %g; expected a positive number", sigma_spatial);
  if (!(sigma_range > 0)) return message("sigma_range is %g; expected a positive number", sigma_range);
  const double step = kernel_size > 1 ? 2.0 / double(kernel_size - 1) : 0.0;
  const double spatial = -0.5 * step * step / (sigma_spatial * sigma_spatial),
               range = -0.5 / (sigma_range * sigma_range);
  return run_window_taps<kBilateral>(*guidance, nullptr, *output, {nullptr, nullptr, 1, spatial, range}, kernel_size,
                                     stream);
}
