// Shared by the kernels: storage types, strides, and the tile of a window operator's input in shared memory.
#pragma once

#include <cstdint>

#include "platform.h"

namespace featup {

// Sums of the 16-bit storage types are taken in float32.
template <class T>
struct Sum {
  using Type = float;
};
template <>
struct Sum<double> {
  using Type = double;
};

__device__ inline float load(const float* at) { return *at; }
__device__ inline double load(const double* at) { return *at; }
__device__ inline float load(const __half* at) { return __half2float(*at); }
__device__ inline float load(const __nv_bfloat16* at) { return __bfloat162float(*at); }
__device__ inline void store(float* at, float value) { *at = value; }
__device__ inline void store(double* at, double value) { *at = value; }
__device__ inline void store(__half* at, float value) { *at = __float2half_rn(value); }
__device__ inline void store(__nv_bfloat16* at, float value) { *at = __float2bfloat16_rn(value); }

__device__ inline float exponential(float value) { return expf(value); }
__device__ inline double exponential(double value) { return exp(value); }

// Elements from one to the next; "channel" is the second dimension, of channels or taps.
struct Strides {
  int64_t batch, channel, row, column;
};

// The sizes of one call: those of the tensors without padding. Heights and widths, and with them coordinates, fit into
// 32 bits, which saves registers; offsets do not.
struct Sizes {
  int64_t batch, channels, height, width;
};

// A block is kColumns x kLanes threads. Each thread has a column of Pixels pixels, so that a value of the tile is read
// from shared memory once for all the pixels that it belongs to: shared memory, not arithmetic, is the bound.
constexpr int kColumns = 32;
constexpr int kLanes = 4;
constexpr int kThreads = kColumns * kLanes;
// Channels in shared memory between two barriers. Eight are also one 32-byte sector of a channels-last float32 tensor.
constexpr int kStage = 8;

// As many pixels as there are registers for their k * k weights or sums.
template <class Total, int K>
constexpr int pixels_per_thread() {
  if (sizeof(Total) == 8) return K == 3 ? 2 : 1;
  return K == 3 ? 4 : 2;
}

// Blocks per multiprocessor that the compiler keeps registers free for: of the 65536, three blocks leave 168 to each
// thread and two 255. More blocks would spill the weights.
template <class Total>
constexpr int resident_blocks() {
  return sizeof(Total) == 8 ? 2 : 3;
}

template <int K, int Pixels>
struct Tile {
  static constexpr int kPixelRows = kLanes * Pixels;
  static constexpr int kRows = kPixelRows + K - 1;
  static constexpr int kWidth = kColumns + K - 1;
  static constexpr int kPlane = kRows * kWidth;
  static constexpr int kCount = kStage * kPlane;
};

// Tiles of the output, side by side and then down.
struct Tiling {
  int64_t across, count;
  __host__ __device__ static Tiling of(int64_t height, int64_t width, int rows) {
    const int64_t across = (width + kColumns - 1) / kColumns;
    return {across, across * ((height + rows - 1) / rows)};
  }
};

// The values of a tile outside of its input.
enum class Outside { zero, nearest };

// Copies `channels` (at most kStage) planes of `source`, a pointer to pixel (0, 0), from row `top` and column `left`
// on. Outside of height x width `Rest` decides. Ends without a barrier.
template <class Shape, Outside Rest, class T, class Total>
__device__ void load_tile(Total* tile, const T* source, const Strides& strides, int channels, int top, int left,
                          int height, int width) {
  const bool channels_last = strides.channel == 1 && strides.column != 1;
  const int count = (channels_last ? kStage : channels) * Shape::kPlane + (planted(Fault::shared_overflow) ? 1 : 0);
  if (planted(Fault::global_overflow)) width += 1;
#pragma unroll 2  // more would spill the weights
  for (int index = threadIdx.y * kColumns + threadIdx.x; index < count; index += kThreads) {
    int channel, pixel;
    if (channels_last) {  // neighbouring threads read neighbouring channels
      channel = index % kStage;
      pixel = index / kStage;
    } else {
      channel = index / Shape::kPlane;
      pixel = index % Shape::kPlane;
    }
    int y = top + pixel / Shape::kWidth;
    int x = left + pixel % Shape::kWidth;
    bool inside = channel < channels;
    if (Rest == Outside::nearest) {
      y = y < 0 ? 0 : y < height ? y : height - 1;
      x = x < 0 ? 0 : x < width ? x : width - 1;
    } else {
      inside = inside && y >= 0 && y < height && x >= 0 && x < width;
    }
    tile[channel * Shape::kPlane + pixel] =
        inside ? load(source + channel * strides.channel + y * strides.row + x * strides.column) : Total(0);
  }
}

// Between filling a tile and reading it.
__device__ inline void tile_is_filled() {
  if (planted(Fault::race)) return;
  if (planted(Fault::divergent_barrier) && threadIdx.y == 0) {
    __syncthreads();
    return;
  }
  __syncthreads();
}

}  // namespace featup
