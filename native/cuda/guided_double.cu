// Bicubic doubling, reflecting padding and a 7 x 7 window sum in one pass, without the doubled map or its padded copy.
//
// All three are linear, so the weights of the window can be folded with those of the doubling: the four fine pixels of
// a coarse cell (2 m + a, 2 n + b) all read the 7 x 7 cells around it. A thread makes the two pixels of one fine row of
// a cell, so that a value of the tile is read from shared memory once for both. Which cells a tap reads depends on
// whether its line is even or odd, and the odd line of a cell mirrors the even one; so a thread with an odd row reads
// its window upside down. Then all indices of weights in registers are constants.
//
// Borders: the doubling repeats the outermost cells, and so does the tile. A tap outside of the fine map reads the same
// as the tap that it reflects onto, which is always in the same window, so its weight is added to that tap's weight.

#include "call.cuh"

namespace featup {

constexpr int kSide = 7;
constexpr int kReach = kSide / 2;
constexpr int kCubic = 4;

// The cells that a block computes, and those around them.
struct Cells {
  static constexpr int kCellRows = kLanes / 2;
  static constexpr int kWidth = kColumns + 2 * kReach;
  static constexpr int kPlane = (kCellRows + 2 * kReach) * kWidth;
  static constexpr int kCount = kStage * kPlane;
};

// The call's place, and the sizes of the source.
struct Place {
  int coarse_rows, coarse_columns, source_top, source_left, top, left, rows, columns;
};

// Line `line` of the window around an even fine line reads the cells line / 2 to line / 2 + 3 of the seven; this is its
// weight for the `cell`th of the four: Keys' (1981) with a = -0.75, a quarter of a cell from the centre. Lines 0, 2, 4
// and 6 of the window are odd fine lines, which lie after the centre of their cell; the others lie before it. Exact in
// float32.
template <class Total>
__device__ constexpr Total cubic(int line, int cell) {
  const int from = line % 2 == 0 ? cell : kCubic - 1 - cell;
  return from == 0   ? Total(-0.10546875)
         : from == 1 ? Total(0.87890625)
         : from == 2 ? Total(0.26171875)
                     : Total(-0.03515625);
}

// The line of the window whose weight is added to line `line`, if that is in the map: itself (reflection 0), or the
// line before the map's first (1) or after its last (2) that reflects onto it; -1 if there is none. `first` is the fine
// line of the window's line 0.
__device__ inline int reflected_onto(int line, int reflection, int first, int length) {
  const int at = first + line;
  if (at < 0 || at >= length) return -1;
  if (reflection == 0) return line;
  const int other = reflection == 1 ? -at : 2 * (length - 1) - at;
  const bool outside = other < 0 || other >= length;
  return outside && other >= first && other < first + kSide ? other - first : -1;
}

// Moves the weights of the columns outside of the map to those that they reflect onto.
template <class Total>
__device__ inline void reflect(Total* row, int first, int length) {
#pragma unroll
  for (int outside = 1; outside <= kReach; ++outside) {
    const bool before = first == -outside, behind = first + kSide == length + outside;
#pragma unroll
    for (int column = 0; column < outside; ++column) {
      const int onto = 2 * outside - column;
      row[onto] += before ? row[column] : Total(0);
      row[column] = before ? Total(0) : row[column];
      row[kSide - 1 - onto] += behind ? row[kSide - 1 - column] : Total(0);
      row[kSide - 1 - column] = behind ? Total(0) : row[kSide - 1 - column];
    }
  }
}

// Two neighbours, written at once.
template <class T>
struct alignas(2 * sizeof(T)) Pair {
  T left, right;
};

// One block makes kCellRows x kColumns cells for `share` channels of one image. `sizes` are those of the output.
// `paired`: the output cuts no cell.
template <class T>
__global__ void __launch_bounds__(kThreads, resident_blocks<typename Sum<T>::Type>())
    double_cells(const T* source, Strides source_strides, const T* weights, Strides weights_strides, T* output,
                 Place place, Sizes sizes, int64_t share, bool paired) {
  using Total = typename Sum<T>::Type;
  // In float64 the weights of two pixels do not fit into registers: the block loops over the channels once for each
  // column.
  constexpr int Together = sizeof(Total) == 8 ? 1 : 2;
  FEATUP_SHARED(Total, tile, Cells::kCount);

  const int height = static_cast<int>(sizes.height), width = static_cast<int>(sizes.width);
  const int fine_rows = 2 * place.coarse_rows, fine_columns = 2 * place.coarse_columns;
  const int first_row = place.top / 2, first_column = place.left / 2;  // cells
  const Tiling tiling = Tiling::of((place.top + height + 1) / 2 - first_row,
                                   (place.left + width + 1) / 2 - first_column, Cells::kCellRows);
  const int64_t shares = (sizes.channels + share - 1) / share;
  const int64_t plane_step = int64_t(height) * width;
  const bool odd = threadIdx.y % 2 == 1;
  // A doubled line of one cell is constant, so it does not matter which part of it a tap reads.
  const bool reflects_rows = fine_rows > 2, reflects_columns = fine_columns > 2;

  for (int64_t item = blockIdx.x; item < tiling.count * shares * sizes.batch; item += gridDim.x) {
    const int64_t image = item / (tiling.count * shares);
    const int first = static_cast<int>(item / tiling.count % shares * share);
    const int end = static_cast<int>(first + share < sizes.channels ? first + share : sizes.channels);
    const int top = first_row + static_cast<int>(item % tiling.count / tiling.across) * Cells::kCellRows;
    const int left = first_column + static_cast<int>(item % tiling.count % tiling.across) * kColumns;
    const int fine_y = 2 * top + static_cast<int>(threadIdx.y), y = fine_y - place.top;
    const int fine_x = 2 * (left + static_cast<int>(threadIdx.x)), x = fine_x - place.left;

#pragma unroll
    for (int side = 0; side < 2; side += Together) {
      Total weight[Together][kSide * kSide] = {};
      if (y >= 0 && y < height) {
        const T* const at = weights + image * weights_strides.batch + y * weights_strides.row;
        const int images = reflects_rows && (fine_y < kReach || fine_y + kReach >= fine_rows) ? 3 : 1;
#pragma unroll
        for (int step = 0; step < kSide; ++step) {
          const int line = odd ? kSide - 1 - step : step;
          Total row[Together][kSide] = {};
#pragma unroll 1
          for (int reflection = 0; reflection < images; ++reflection) {
            const int from = reflects_rows ? reflected_onto(line, reflection, fine_y - kReach, fine_rows) : line;
            if (from < 0) continue;
            const T* tap = at + from * kSide * weights_strides.channel;
#pragma unroll
            for (int column = 0; column < kSide; ++column) {
#pragma unroll
              for (int pixel = 0; pixel < Together; ++pixel) {
                const int to_x = x + side + pixel;
                if (to_x >= 0 && to_x < width) row[pixel][column] += load(tap + to_x * weights_strides.column);
              }
              tap += weights_strides.channel;
            }
          }
#pragma unroll
          for (int pixel = 0; pixel < Together; ++pixel) {
            if (reflects_columns) reflect(row[pixel], fine_x + side + pixel - kReach, fine_columns);
            Total folded[kSide] = {};
#pragma unroll
            for (int column = 0; column < kSide; ++column) {
              const int mirrored = side + pixel == 1 ? kSide - 1 - column : column;
#pragma unroll
              for (int cell = 0; cell < kCubic; ++cell) {
                const int onto = mirrored / 2 + cell;
                folded[side + pixel == 1 ? kSide - 1 - onto : onto] +=
                    row[pixel][column] * cubic<Total>(mirrored, cell);
              }
            }
#pragma unroll
            for (int cell = 0; cell < kCubic; ++cell) {
#pragma unroll
              for (int column = 0; column < kSide; ++column)
                weight[pixel][(step / 2 + cell) * kSide + column] += folded[column] * cubic<Total>(step, cell);
            }
          }
        }
      }

      const bool inside = y >= 0 && y < height;
      T* out = output + (image * sizes.channels + first) * plane_step + int64_t(inside ? y : 0) * width;
#pragma unroll 1
      for (int channel = first; channel < end; channel += kStage) {
        const int channels = end - channel < kStage ? end - channel : kStage;
        load_tile<Cells, Outside::nearest>(
            tile, source + image * source_strides.batch + channel * source_strides.channel, source_strides, channels,
            top - kReach - place.source_top, left - kReach - place.source_left, place.rows, place.columns);
        tile_is_filled();
#pragma unroll 1
        for (int plane = 0; plane < channels; ++plane) {
          const Total* line =
              tile + plane * Cells::kPlane + (threadIdx.y / 2 + (odd ? kSide - 1 : 0)) * Cells::kWidth + threadIdx.x;
          Total total[Together] = {};
#pragma unroll
          for (int row = 0; row < kSide; ++row) {
#pragma unroll
            for (int column = 0; column < kSide; ++column) {
              const Total value = line[column];
#pragma unroll
              for (int pixel = 0; pixel < Together; ++pixel)
                total[pixel] += value * weight[pixel][row * kSide + column];
            }
            if (row + 1 < kSide) line += odd ? -Cells::kWidth : Cells::kWidth;
          }
          if (inside) {
            if (Together == 2 && paired) {
              if (x < width) {
                Pair<T> both;
                store(&both.left, total[0]);
                store(&both.right, total[Together - 1]);
                *reinterpret_cast<Pair<T>*>(out + x) = both;
              }
            } else {
#pragma unroll
              for (int pixel = 0; pixel < Together; ++pixel) {
                const int to_x = x + side + pixel;
                if (to_x >= 0 && to_x < width) store(out + to_x, total[pixel]);
              }
            }
          }
          out += plane_step;
        }
        __syncthreads();  // before the tile is overwritten
      }
    }
  }
}

}  // namespace featup

using namespace featup;

extern "C" const char* featup_cuda_guided_double(const featup_tensor* source, const featup_tensor* weights,
                                                 const featup_tensor* output, const featup_place* place, void* stream) {
  const Named coarse{"source", source}, window{"weights", weights}, fine{"output", output};
  if (const char* error = check_guided_double(coarse, window, fine, place)) return error;
  if (const char* error = check_for_cuda({coarse, window}, fine, kSide)) return error;
  if (is_empty(*output)) return nullptr;
  const Sizes sizes = sizes_of(*output);
  return with_dtype(output->dtype, [&](auto storage) {
    using T = decltype(storage);
    const int64_t cell_rows = (place->top + sizes.height + 1) / 2 - place->top / 2;
    const int64_t cell_columns = (place->left + sizes.width + 1) / 2 - place->left / 2;
    const int64_t tiles = Tiling::of(cell_rows, cell_columns, Cells::kCellRows).count,
                  share = channel_share(sizes, tiles);
    const int64_t items = tiles * sizes.batch * ((sizes.channels + share - 1) / share);
    const bool aligned = reinterpret_cast<uintptr_t>(output->data) % (2 * sizeof(T)) == 0;
    const auto whole = [](int64_t value) { return static_cast<int>(value); };
    const Place in{
        whole(place->coarse_rows), whole(place->coarse_columns), whole(place->source_top), whole(place->source_left),
        whole(place->top),         whole(place->left),           whole(source->size[2]),   whole(source->size[3])};
    launch(double_cells<T>, blocks_for(items), dim3(kColumns, kLanes), stream, static_cast<const T*>(source->data),
           strides_of(*source), static_cast<const T*>(weights->data), strides_of(*weights),
           static_cast<T*>(output->data), in, sizes, share, aligned && place->left % 2 == 0 && sizes.width % 2 == 0);
    return launched();
  });
}
