// Attention of output pixels to the window of coarse cells around the cell that they lie in: the weights of a pixel,
// and what the calls share.
#pragma once

#include <cmath>

#include "call.cuh"

namespace featup {

// What the weights are made of; the strides of the logits are those of lines and taps.
template <class T>
struct Attention {
  const T *queries, *keys, *row_logits, *column_logits;
  Strides query_strides, key_strides, row_strides, column_strides;
  const int64_t *row_cells, *column_cells;
  int embeddings, rows, columns, kernel_size;
};

// One pixel: its query and logits of distance, and the top left cell of its window, which may lie outside of the grid.
template <class T>
struct Pixel {
  using Total = typename Sum<T>::Type;
  const T *query, *keys, *down, *across;
  int row, column;

  __device__ Pixel(const Attention<T>& of, int64_t image, int y, int x)
      : query(of.queries + image * of.query_strides.batch + y * of.query_strides.row + x * of.query_strides.column),
        keys(of.keys + image * of.key_strides.batch),
        down(of.row_logits + y * of.row_strides.row),
        across(of.column_logits + x * of.column_strides.row),
        row(static_cast<int>(of.row_cells[y]) - of.kernel_size / 2),
        column(static_cast<int>(of.column_cells[x]) - of.kernel_size / 2) {}

  __device__ bool exists(const Attention<T>& of, int i, int j) const {
    return row + i >= 0 && row + i < of.rows && column + j >= 0 && column + j < of.columns;
  }
  // The address of a cell of the window in the image of a map that begins at `map`.
  __device__ const T* cell(const T* map, const Strides& strides, int i, int j) const {
    return map + (row + i) * strides.row + (column + j) * strides.column;
  }
  __device__ Total logit(const Attention<T>& of, int i, int j) const {
    if (!exists(of, i, j)) return Total(-INFINITY);
    Total sum = load(down + i * of.row_strides.column) + load(across + j * of.column_strides.column);
    const T* at = cell(keys, of.key_strides, i, j);
#pragma unroll 1
    for (int e = 0; e < of.embeddings; ++e)
      sum += load(query + e * of.query_strides.channel) * load(at + e * of.key_strides.channel);
    return sum;
  }
};

// The largest logit of a window, and one divided by the sum of the exponentials relative to it.
template <class T>
struct Softmax {
  using Total = typename Sum<T>::Type;
  Total most, scale;

  __device__ Softmax(const Attention<T>& of, const Pixel<T>& pixel)
      : most(pixel.logit(of, of.kernel_size / 2, of.kernel_size / 2)) {
    Total all = 0;
#pragma unroll 1
    for (int i = 0; i < of.kernel_size; ++i) {
#pragma unroll 1
      for (int j = 0; j < of.kernel_size; ++j) {
        const Total logit = pixel.logit(of, i, j);
        if (logit > most) {  // the total so far was relative to the smaller maximum
          all *= exponential(most - logit);
          most = logit;
        }
        all += exponential(logit - most);
      }
    }
    scale = Total(1) / all;
  }
  __device__ Total weight(const Attention<T>& of, const Pixel<T>& pixel, int i, int j) const {
    return exponential(pixel.logit(of, i, j) - most) * scale;
  }
};

// Calls use(tap, address) for the taps of a pixel whose cell exists; `corner` is the address of the window's top left
// cell in a map. One address moves along: there are no registers for k * k of them.
template <int K, class T, class Use>
__device__ inline void for_each_cell(const Attention<T>& of, const Pixel<T>& pixel, const T* corner,
                                     const Strides& strides, Use use) {
#pragma unroll
  for (int i = 0; i < K; ++i) {
    const T* at = corner;
#pragma unroll
    for (int j = 0; j < K; ++j) {
      if (pixel.exists(of, i, j)) use(i * K + j, at);
      at += strides.column;
    }
    corner += strides.row;
  }
}

// The pixel and image of a thread, and for the forward pass its channels.
struct Item {
  int64_t image;
  int first, end, y, x;
  __device__ Item(int64_t item, const Sizes& sizes, int64_t share) {
    const int64_t shares = (sizes.channels + share - 1) / share;
    const Tiling tiling = Tiling::of(sizes.height, sizes.width, kLanes);
    image = item / (tiling.count * shares);
    first = static_cast<int>(item / tiling.count % shares * share);
    end = static_cast<int>(first + share < sizes.channels ? first + share : sizes.channels);
    y = static_cast<int>(item % tiling.count / tiling.across) * kLanes + static_cast<int>(threadIdx.y);
    x = static_cast<int>(item % tiling.count % tiling.across) * kColumns + static_cast<int>(threadIdx.x);
  }
};

inline int64_t items_of(const Sizes& sizes, int64_t share) {
  return Tiling::of(sizes.height, sizes.width, kLanes).count * sizes.batch * ((sizes.channels + share - 1) / share);
}

// What the weights of a call are made of.
struct Inputs {
  Named queries, keys, row_logits, column_logits;
  const int64_t *row_cells, *column_cells;

  int kernel_size() const { return static_cast<int>(row_logits.tensor->size[3]); }

  const char* check() const {
    if (const char* wrong = check_attention_weights(queries, keys, row_logits, column_logits, kLargestKernel))
      return wrong;
    for (const Named& named : {queries, keys, row_logits, column_logits})
      if (const char* wrong = check_memory(named)) return wrong;
    if (is_empty(*queries.tensor)) return nullptr;
    if (const char* wrong = check_on_device("row_cells", row_cells)) return wrong;
    return check_on_device("column_cells", column_cells);
  }

  // And the values with the output or its gradient.
  const char* check_with(const Named& values, const Named& output) const {
    if (const char* wrong = check()) return wrong;
    if (const char* wrong = check_attention_values(queries, keys, values, output)) return wrong;
    if (const char* wrong = check_memory(values)) return wrong;
    return check_memory(output);
  }

  // A contiguous tensor with a plane for each tap, in any number format.
  const char* check_planes(const Named& planes) const {
    const int64_t *const size = queries.tensor->size, taps = int64_t(kernel_size()) * kernel_size();
    if (const char* wrong = check_tensor(planes)) return wrong;
    if (const char* wrong = check_shape(planes, size[0], taps, size[2], size[3])) return wrong;
    if (const char* wrong = check_memory(planes)) return wrong;
    return check_contiguous(planes);
  }

  const char* check_memory(const Named& named) const {
    if (const char* wrong = check_reach(named, kernel_size())) return wrong;
    return is_empty(*named.tensor) ? nullptr : check_on_device(named.name, named.tensor->data);
  }

  template <class T>
  Attention<T> of() const {
    const auto data = [](const Named& named) { return static_cast<const T*>(named.tensor->data); };
    const int64_t *fine = queries.tensor->size, *coarse = keys.tensor->size;
    return {data(queries),
            data(keys),
            data(row_logits),
            data(column_logits),
            strides_of(*queries.tensor),
            strides_of(*keys.tensor),
            strides_of(*row_logits.tensor),
            strides_of(*column_logits.tensor),
            row_cells,
            column_cells,
            static_cast<int>(fine[1]),
            static_cast<int>(coarse[2]),
            static_cast<int>(coarse[3]),
            kernel_size()};
  }
};

}  // namespace featup
