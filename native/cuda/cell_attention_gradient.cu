// The gradients of the attention to coarse cells.
//
// A thread has one pixel: it computes the products of the gradient with the values of each tap, and with them the
// gradient of its logits, which is stored as the weights are. Each cell then gathers from the pixels in whose window it
// is, so that every run gives the same bits.

#include "cell_attention.cuh"

namespace featup {

// Where the weights, the gradient of the logits (both with a plane for each tap) and that of the queries are written.
template <class T>
struct Gradients {
  typename Sum<T>::Type *weights, *logits;
  T* queries;
};

// The gradient of a pixel's query, from the gradient of its logits in memory, for a few embeddings at a time.
template <class T>
__device__ inline void gradient_of_query(const Attention<T>& attention, const Pixel<T>& pixel,
                                         const typename Sum<T>::Type* logits, T* to, int64_t plane) {
  constexpr int kTogether = 4;
#pragma unroll 1
  for (int e = 0; e < attention.embeddings; e += kTogether) {
    typename Sum<T>::Type sum[kTogether] = {};
#pragma unroll 1
    for (int tap = 0; tap < attention.kernel_size * attention.kernel_size; ++tap) {
      const int i = tap / attention.kernel_size, j = tap % attention.kernel_size;
      if (!pixel.exists(attention, i, j)) continue;
      const T* key = pixel.cell(pixel.keys, attention.key_strides, i, j) + e * attention.key_strides.channel;
#pragma unroll
      for (int u = 0; u < kTogether; ++u)
        if (e + u < attention.embeddings) sum[u] += logits[tap * plane] * load(key + u * attention.key_strides.channel);
    }
#pragma unroll
    for (int u = 0; u < kTogether; ++u)
      if (e + u < attention.embeddings) store(to + (e + u) * plane, sum[u]);
  }
}

// From the products of the gradient with the values of each tap, which are where the gradient of the logits will be, to
// the three gradients of the pixel at `at` in its plane.
template <class T>
__device__ inline void finish_pixel(const Attention<T>& attention, const Pixel<T>& pixel, const Gradients<T>& to,
                                    int64_t image, int64_t at, int64_t plane) {
  using Total = typename Sum<T>::Type;
  const int taps = attention.kernel_size * attention.kernel_size;
  Total* const weights = to.weights + image * taps * plane + at;
  Total* const logits = to.logits + image * taps * plane + at;
  const Softmax<T> softmax(attention, pixel);
  Total mean = 0;
#pragma unroll 1
  for (int tap = 0; tap < taps; ++tap) {
    const Total weight = softmax.weight(attention, pixel, tap / attention.kernel_size, tap % attention.kernel_size);
    weights[tap * plane] = weight;
    mean += weight * logits[tap * plane];
  }
#pragma unroll 1
  for (int tap = 0; tap < taps; ++tap) logits[tap * plane] = weights[tap * plane] * (logits[tap * plane] - mean);
  gradient_of_query(attention, pixel, logits, to.queries + image * attention.embeddings * plane + at, plane);
}

// Products of the gradient with the values of `Taps` cells of a row of the window from tap (i, j) on, of all channels.
template <int Taps, class T, class Total>
__device__ inline void products_of_row(const Attention<T>& attention, const Pixel<T>& pixel, const T* values,
                                       const Strides& strides, const T* grad, const Strides& grad_strides, int channels,
                                       int i, int j, Total* logits, int64_t plane) {
  Total product[Taps] = {};
  bool exists[Taps];
#pragma unroll
  for (int tap = 0; tap < Taps; ++tap) exists[tap] = pixel.exists(attention, i, j + tap);
  const T* from = pixel.cell(values, strides, i, j);
#pragma unroll 1
  for (int channel = 0; channel < channels; ++channel) {
    const Total factor = load(grad);
#pragma unroll
    for (int tap = 0; tap < Taps; ++tap)
      if (exists[tap]) product[tap] += factor * load(from + tap * strides.column);
    grad += grad_strides.channel;
    from += strides.channel;
  }
#pragma unroll
  for (int tap = 0; tap < Taps; ++tap) logits[tap * plane] = product[tap];
}

// `sizes` are those of the gradient of the output. Products of K taps stay in registers; the window has any multiple.
template <class T, int K>
__global__ void __launch_bounds__(kThreads)
    attention_through(Attention<T> attention, const T* values, Strides strides, const T* grad, Strides grad_strides,
                      Gradients<T> to, Sizes sizes, int64_t items) {
  const int size = attention.kernel_size;
  for (int64_t index = blockIdx.x; index < items; index += gridDim.x) {
    const Item item(index, sizes, sizes.channels);
    if (item.y >= sizes.height || item.x >= sizes.width) continue;
    const Pixel<T> pixel(attention, item.image, item.y, item.x);
    const int64_t plane = sizes.height * sizes.width, here = item.y * sizes.width + item.x;
    const T* from = values + item.image * strides.batch;
    const T* by = grad + item.image * grad_strides.batch + item.y * grad_strides.row + item.x * grad_strides.column;
    auto* logits = to.logits + item.image * size * size * plane + here;
#pragma unroll 1
    for (int tap = 0; tap < size * size; tap += K, logits += K * plane)
      products_of_row<K>(attention, pixel, from, strides, by, grad_strides, item.end, tap / size, tap % size, logits,
                         plane);
    finish_pixel(attention, pixel, to, item.image, here, plane);
  }
}

// The first of the lines, whose cells do not decrease, that lies in a cell or behind it.
__device__ inline int first_line(const int64_t* cells, int lines, int64_t cell) {
  int low = 0, high = lines;
  while (low < high) {
    const int middle = (low + high) / 2;
    if (cells[middle] < cell) low = middle + 1;
    else high = middle;
  }
  return low;
}

// output (B, D, h, w): for each cell the sum over the pixels in whose window it is of their factor for it, (B, k * k,
// H, W), times the source (B, D, H, W). A block has one cell and up to kStage channels. `sizes` are those of the
// source.
template <class T>
__global__ void __launch_bounds__(kThreads)
    attention_cells(const typename Sum<T>::Type* factors, const T* source, Strides strides, const int64_t* row_cells,
                    const int64_t* column_cells, T* output, Sizes sizes, int rows, int columns, int kernel_size) {
  using Total = typename Sum<T>::Type;
  FEATUP_SHARED(Total, sums, kStage * kThreads);
  const int height = static_cast<int>(sizes.height), width = static_cast<int>(sizes.width);
  const int radius = kernel_size / 2, thread = static_cast<int>(threadIdx.x);
  const int64_t stages = (sizes.channels + kStage - 1) / kStage, cells = int64_t(rows) * columns;
  for (int64_t item = blockIdx.x; item < sizes.batch * stages * cells; item += gridDim.x) {
    const int64_t image = item / (stages * cells), first = item / cells % stages * kStage;
    const int channels = sizes.channels - first < kStage ? static_cast<int>(sizes.channels - first) : kStage;
    const int row = static_cast<int>(item % cells / columns), column = static_cast<int>(item % cells % columns);
    const int top = first_line(row_cells, height, row - radius),
              left = first_line(column_cells, width, column - radius);
    const int bottom = first_line(row_cells, height, row + radius + 1);
    const int wide = first_line(column_cells, width, column + radius + 1) - left;
    Total total[kStage] = {};
    for (int64_t index = thread; index < int64_t(bottom - top) * wide; index += kThreads) {
      const int y = top + static_cast<int>(index / wide), x = left + static_cast<int>(index % wide);
      const int64_t tap = (row + radius - row_cells[y]) * kernel_size + (column + radius - column_cells[x]);
      const Total factor = factors[((image * kernel_size * kernel_size + tap) * height + y) * width + x];
      const T* at = source + image * strides.batch + first * strides.channel + y * strides.row + x * strides.column;
#pragma unroll
      for (int u = 0; u < kStage; ++u)
        if (u < channels) total[u] += factor * load(at + u * strides.channel);
    }
#pragma unroll
    for (int u = 0; u < kStage; ++u) sums[u * kThreads + thread] = total[u];
    __syncthreads();
    for (int half = kThreads / 2; half > 0; half /= 2) {
      if (thread < half) {
#pragma unroll
        for (int u = 0; u < kStage; ++u) sums[u * kThreads + thread] += sums[u * kThreads + thread + half];
      }
      __syncthreads();
    }
    if (thread < channels)
      store(output + (image * sizes.channels + first + thread) * cells + item % cells, sums[thread * kThreads]);
    __syncthreads();  // before the sums are overwritten
  }
}

// The sums of a gradient over the pixels for each cell, where there is anything to sum.
template <class T>
void gather(const typename Sum<T>::Type* factors, const featup_tensor& source, const Inputs& inputs,
            const featup_tensor& output, void* stream) {
  if (is_empty(output)) return;
  const Sizes sizes = sizes_of(source);
  const int64_t items = sizes.batch * ((sizes.channels + kStage - 1) / kStage) * output.size[2] * output.size[3];
  launch(attention_cells<T>, blocks_for(items), dim3(kThreads), stream, factors, static_cast<const T*>(source.data),
         strides_of(source), inputs.row_cells, inputs.column_cells, static_cast<T*>(output.data), sizes,
         static_cast<int>(output.size[2]), static_cast<int>(output.size[3]), inputs.kernel_size());
}

template <class T>
const char* run_gradients(const Inputs& inputs, const featup_tensor& values, const featup_tensor& grad,
                          const featup_tensor& weights, const featup_tensor& grad_logits,
                          const featup_tensor& grad_queries, const featup_tensor& grad_keys,
                          const featup_tensor* grad_values, void* stream) {
  using Total = typename Sum<T>::Type;
  const Attention<T> attention = inputs.of<T>();
  const Gradients<T> to{static_cast<Total*>(weights.data), static_cast<Total*>(grad_logits.data),
                        static_cast<T*>(grad_queries.data)};
  const Sizes sizes = sizes_of(grad);
  const int64_t items = items_of(sizes, sizes.channels);
  const T *from = static_cast<const T*>(values.data), *by = static_cast<const T*>(grad.data);
  const char* error = with_kernel_size(attention.kernel_size, [&](auto constant) {
    constexpr int K = decltype(constant)::value > 0 ? decltype(constant)::value : 1;
    launch(attention_through<T, K>, blocks_for(items), dim3(kColumns, kLanes), stream, attention, from,
           strides_of(values), by, strides_of(grad), to, sizes, items);
    return launched();
  });
  if (error != nullptr) return error;
  if (grad_values != nullptr) gather<T>(to.weights, grad, inputs, *grad_values, stream);
  gather<T>(to.logits, *inputs.queries.tensor, inputs, grad_keys, stream);
  return launched();
}

}  // namespace featup

using namespace featup;

extern "C" const char* featup_cuda_cell_attention_backward(
    const featup_tensor* queries, const featup_tensor* keys, const featup_tensor* values,
    const featup_tensor* row_logits, const featup_tensor* column_logits, const int64_t* row_cells,
    const int64_t* column_cells, const featup_tensor* grad, const featup_tensor* weights,
    const featup_tensor* grad_logits, const featup_tensor* grad_queries, const featup_tensor* grad_keys,
    const featup_tensor* grad_values, void* stream) {
  const Inputs inputs{
      {"queries", queries}, {"keys", keys}, {"row_logits", row_logits}, {"column_logits", column_logits}, row_cells,
      column_cells};
  if (const char* error = inputs.check_with({"values", values}, {"grad", grad})) return error;
  for (const Named& named : {Named{"weights", weights}, Named{"grad_logits", grad_logits}}) {
    if (const char* error = inputs.check_planes(named)) return error;
    const int32_t wanted = queries->dtype == FEATUP_FLOAT64 ? FEATUP_FLOAT64 : FEATUP_FLOAT32;
    if (named.tensor->dtype != wanted) return message("%s has not the number format of sums", named.name);
  }
  const struct {
    Named named;
    const featup_tensor* of;
  } gradients[] = {{{"grad_queries", grad_queries}, queries},
                   {{"grad_keys", grad_keys}, keys},
                   {{"grad_values", grad_values}, values}};
  for (const auto& gradient : gradients) {
    if (gradient.of == values && grad_values == nullptr) continue;
    const int64_t* const size = gradient.of->size;
    if (const char* error = check_tensor(gradient.named)) return error;
    if (const char* error = check_shape(gradient.named, size[0], size[1], size[2], size[3])) return error;
    if (const char* error = check_for_cuda({inputs.queries}, gradient.named, inputs.kernel_size())) return error;
  }
  if (is_empty(*grad)) return nullptr;
  return with_dtype(grad->dtype, [&](auto storage) {
    return run_gradients<decltype(storage)>(inputs, *values, *grad, *weights, *grad_logits, *grad_queries, *grad_keys,
                                            grad_values, stream);
  });
}
