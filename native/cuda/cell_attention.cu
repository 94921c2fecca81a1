// Attention of output pixels to coarse cells, and its weights.
//
// A thread has one pixel, whose weights stay in registers while it sums one group of channels after the other. The
// pixels of a warp mostly lie in the same cells, so that their values come from the nearest cache.

#include "cell_attention.cuh"

namespace featup {

constexpr int kTogether = 4;  // channels of which a thread reads the values of a tap

// `sizes` are those of the output.
template <class T, int K>
__global__ void __launch_bounds__(kThreads, resident_blocks<typename Sum<T>::Type>())
    attention_pass(Attention<T> attention, const T* values, Strides strides, T* output, Sizes sizes, int64_t share,
                   int64_t items) {
  using Total = typename Sum<T>::Type;
  for (int64_t index = blockIdx.x; index < items; index += gridDim.x) {
    const Item item(index, sizes, share);
    if (item.y >= sizes.height || item.x >= sizes.width) continue;
    const Pixel<T> pixel(attention, item.image, item.y, item.x);
    const Softmax<T> softmax(attention, pixel);
    Total weight[K * K];
#pragma unroll
    for (int tap = 0; tap < K * K; ++tap) weight[tap] = softmax.weight(attention, pixel, tap / K, tap % K);
    const int64_t plane = sizes.height * sizes.width;
    T* out = output + (item.image * sizes.channels + item.first) * plane + item.y * sizes.width + item.x;
    const T* from = values + item.image * strides.batch + item.first * strides.channel;
#pragma unroll 1
    for (int channel = item.first; channel < item.end; channel += kTogether) {
      Total total[kTogether] = {};
      for_each_cell<K>(attention, pixel, pixel.cell(from, strides, 0, 0), strides, [&](int tap, const T* at) {
#pragma unroll
        for (int u = 0; u < kTogether; ++u)
          if (channel + u < item.end) total[u] += weight[tap] * load(at + u * strides.channel);
      });
#pragma unroll
      for (int u = 0; u < kTogether; ++u)
        if (channel + u < item.end) store(out + u * plane, total[u]);
      out += kTogether * plane;
      from += kTogether * strides.channel;
    }
  }
}

// The same for any kernel size: weights are computed again for each group of kStage channels.
template <class T>
__global__ void __launch_bounds__(kThreads) attention_pass_any(Attention<T> attention, const T* values, Strides strides,
                                                               T* output, Sizes sizes, int64_t items) {
  using Total = typename Sum<T>::Type;
  for (int64_t index = blockIdx.x; index < items; index += gridDim.x) {
    const Item item(index, sizes, kStage);
    if (item.y >= sizes.height || item.x >= sizes.width) continue;
    const Pixel<T> pixel(attention, item.image, item.y, item.x);
    const Softmax<T> softmax(attention, pixel);
    const int64_t plane = sizes.height * sizes.width;
    const T* from = values + item.image * strides.batch + item.first * strides.channel;
    Total total[kStage] = {};
    for (int tap = 0; tap < attention.kernel_size * attention.kernel_size; ++tap) {
      const int i = tap / attention.kernel_size, j = tap % attention.kernel_size;
      if (!pixel.exists(attention, i, j)) continue;
      const Total weight = softmax.weight(attention, pixel, i, j);
      const T* at = pixel.cell(from, strides, i, j);
#pragma unroll
      for (int u = 0; u < kStage; ++u)
        if (item.first + u < item.end) total[u] += weight * load(at + u * strides.channel);
    }
    T* out = output + (item.image * sizes.channels + item.first) * plane + item.y * sizes.width + item.x;
#pragma unroll
    for (int u = 0; u < kStage; ++u)
      if (item.first + u < item.end) store(out + u * plane, total[u]);
  }
}

// The weights themselves; `sizes` have one channel.
template <class T>
__global__ void __launch_bounds__(kThreads)
    attention_weights(Attention<T> attention, T* output, Sizes sizes, int64_t items) {
  const int taps = attention.kernel_size * attention.kernel_size;
  for (int64_t index = blockIdx.x; index < items; index += gridDim.x) {
    const Item item(index, sizes, 1);
    if (item.y >= sizes.height || item.x >= sizes.width) continue;
    const Pixel<T> pixel(attention, item.image, item.y, item.x);
    const Softmax<T> softmax(attention, pixel);
    const int64_t plane = sizes.height * sizes.width;
    T* out = output + item.image * taps * plane + item.y * sizes.width + item.x;
    for (int tap = 0; tap < taps; ++tap, out += plane)
      store(out, softmax.weight(attention, pixel, tap / attention.kernel_size, tap % attention.kernel_size));
  }
}

}  // namespace featup

using namespace featup;

extern "C" const char* featup_cuda_cell_attention(const featup_tensor* queries, const featup_tensor* keys,
                                                  const featup_tensor* values, const featup_tensor* row_logits,
                                                  const featup_tensor* column_logits, const int64_t* row_cells,
                                                  const int64_t* column_cells, const featup_tensor* output,
                                                  void* stream) {
  const Inputs inputs{
      {"queries", queries}, {"keys", keys}, {"row_logits", row_logits}, {"column_logits", column_logits}, row_cells,
      column_cells};
  const Named mixed{"values", values}, result{"output", output};
  if (const char* error = inputs.check_with(mixed, result)) return error;
  if (const char* error = check_contiguous(result)) return error;
  if (is_empty(*output)) return nullptr;
  const Sizes sizes = sizes_of(*output);
  return with_dtype(output->dtype, [&](auto storage) {
    using T = decltype(storage);
    const Attention<T> attention = inputs.of<T>();
    const T* from = static_cast<const T*>(values->data);
    T* to = static_cast<T*>(output->data);
    return with_kernel_size(attention.kernel_size, [&](auto constant) {
      constexpr int K = decltype(constant)::value;
      if constexpr (K != 0) {
        const int64_t tiles = Tiling::of(sizes.height, sizes.width, kLanes).count;
        const int64_t share = channel_share(sizes, tiles), items = items_of(sizes, share);
        launch(attention_pass<T, K>, blocks_for(items), dim3(kColumns, kLanes), stream, attention, from,
               strides_of(*values), to, sizes, share, items);
      } else {
        const int64_t items = items_of(sizes, kStage);
        launch(attention_pass_any<T>, blocks_for(items), dim3(kColumns, kLanes), stream, attention, from,
               strides_of(*values), to, sizes, items);
      }
      return launched();
    });
  });
}

extern "C" const char* featup_cuda_cell_attention_weights(const featup_tensor* queries, const featup_tensor* keys,
                                                          const featup_tensor* row_logits,
                                                          const featup_tensor* column_logits, const int64_t* row_cells,
                                                          const int64_t* column_cells, const featup_tensor* output,
                                                          void* stream) {
  const Inputs inputs{
      {"queries", queries}, {"keys", keys}, {"row_logits", row_logits}, {"column_logits", column_logits}, row_cells,
      column_cells};
  const Named result{"output", output};
  if (const char* error = inputs.check()) return error;
  if (const char* error = inputs.check_planes(result)) return error;
  if (const char* error = check_same_dtype(result, inputs.queries)) return error;
  if (is_empty(*output)) return nullptr;
  const Sizes sizes{output->size[0], 1, output->size[2], output->size[3]};
  return with_dtype(output->dtype, [&](auto storage) {
    using T = decltype(storage);
    const int64_t items = items_of(sizes, 1);
    launch(attention_weights<T>, blocks_for(items), dim3(kColumns, kLanes), stream, inputs.of<T>(),
           static_cast<T*>(output->data), sizes, items);
    return launched();
  });
}
