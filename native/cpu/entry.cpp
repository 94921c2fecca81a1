// The C interface: checks every argument, then calls the kernels for this processor.
#include <atomic>
#include <cstring>

#if defined(__linux__)
#include <sys/mman.h>
#endif

#include "checks.hpp"
#include "kernels.hpp"

namespace featup {
namespace {

const Kernels* best() {
#if defined(FEATUP_X86_VARIANTS)
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
      __builtin_cpu_supports("avx512vl"))
    return &kernels_avx512;
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c"))
    return &kernels_avx2;
#endif
  return &kernels_baseline;
}

std::atomic<const Kernels*>& chosen() {
  static std::atomic<const Kernels*> kernels{best()};
  return kernels;
}

constexpr int kLargestKernel = 1023;

const char* out_of_memory(bool done) {
  return done ? nullptr : "output cannot be computed: there is not enough memory";
}

const char* check_threads(int32_t threads) {
  return threads >= 1 ? nullptr : message("threads is %d; expected at least 1", int(threads));
}

const char* check_adjacent_columns(const Named& named) {
  return named.tensor->stride[3] == 1 ? nullptr : message("%s must have its columns next to each other", named.name);
}

const char* check_plain(const Named& named) {
  return named.tensor->dtype <= FEATUP_FLOAT64 ? nullptr : message("%s must be float32 or float64", named.name);
}

// Large outputs are in new memory, which the system provides in pages of 4 KB when each is first written. That takes
// longer than the computation; with large pages it takes a few milliseconds. This is only a hint, so failure is
// ignored.
void expect_writing(const featup_tensor& tensor) {
#if defined(__linux__) && defined(MADV_HUGEPAGE)
  const size_t unit = bytes_of(tensor.dtype);
  size_t last = 0;
  for (int i = 0; i < 4; ++i) last += size_t(tensor.size[i] - 1) * size_t(tensor.stride[i]);
  constexpr uintptr_t page = uintptr_t(2) << 20;
  const uintptr_t first = (reinterpret_cast<uintptr_t>(tensor.data) + page - 1) & ~(page - 1);
  const uintptr_t end = (reinterpret_cast<uintptr_t>(tensor.data) + (last + 1) * unit) & ~(page - 1);
  if (end > first) madvise(reinterpret_cast<void*>(first), end - first, MADV_HUGEPAGE);
#else
  (void)tensor;
#endif
}

void clear(const featup_tensor& tensor) {
  const size_t unit = bytes_of(tensor.dtype);
  for (int64_t b = 0; b < tensor.size[0]; ++b)
    for (int64_t c = 0; c < tensor.size[1]; ++c)
      for (int64_t y = 0; y < tensor.size[2]; ++y)
        for (int64_t x = 0; x < tensor.size[3]; ++x)
          memset(static_cast<char*>(tensor.data) +
                     unit * (b * tensor.stride[0] + c * tensor.stride[1] + y * tensor.stride[2] + x * tensor.stride[3]),
                 0, unit);
}

// A window sum, or its gradient to the input.
const char* run_window_sum(const Named& source, const Named& weights, const Named& output, int32_t kernel_size,
                           int32_t threads, bool grad_input) {
  const Named& padded = grad_input ? output : source;
  const Named& unpadded = grad_input ? source : output;
  if (const char* wrong = check_threads(threads)) return wrong;
  if (const char* wrong = check_window_sum(padded, weights, unpadded, kernel_size, kLargestKernel)) return wrong;
  if (const char* wrong = check_same_precision(weights, source)) return wrong;
  if (const char* wrong = check_same_dtype(output, source)) return wrong;
  if (is_empty(*output.tensor)) return nullptr;
  if (is_empty(*weights.tensor)) return clear(*output.tensor), nullptr;
  expect_writing(*output.tensor);
  const WindowSumJob job{*source.tensor, *weights.tensor, *output.tensor, kernel_size, grad_input, threads};
  return out_of_memory(chosen().load()->window_sum(job));
}

const char* run_window_weights(const Named& padded, double factor, const double* bias, const Named& output,
                               int32_t kernel_size, int32_t threads, bool distances) {
  if (const char* wrong = check_threads(threads)) return wrong;
  if (const char* wrong = check_window_weights(padded, output, kernel_size, kLargestKernel)) return wrong;
  if (bias == nullptr) return message("bias is missing");
  if (const char* wrong = check_plain(padded)) return wrong;
  if (is_empty(*output.tensor)) return nullptr;
  if (const char* wrong = check_adjacent_columns(padded)) return wrong;
  if (const char* wrong = check_adjacent_columns(output)) return wrong;
  expect_writing(*output.tensor);
  const WindowWeightsJob job{*padded.tensor, *output.tensor, bias, factor, kernel_size, distances, threads};
  return out_of_memory(chosen().load()->window_weights(job));
}

// Many channels must lie next to each other, few must be planes.
const char* check_layouts(const featup_tensor& source, const featup_tensor& output) {
  if (is_empty(output)) return nullptr;
  const int along = source.size[1] > kFewChannels ? 1 : 3;
  if (source.stride[along] == 1 && output.stride[along] == 1) return nullptr;
  return message("source and output must have their %s next to each other", along == 1 ? "channels" : "columns");
}

const char* check_indices(const char* name, const int64_t* indices, const double* shares, int64_t count,
                          int64_t length) {
  if (indices == nullptr || shares == nullptr) return message("%s are missing", name);
  for (int64_t i = 0; i < count; ++i)
    if (indices[i] < 0 || indices[i] >= length || !(shares[i] >= 0 && shares[i] <= 1))
      return message("%s has index %lld and share %g at %lld; expected 0 to %lld and 0 to 1", name,
                     static_cast<long long>(indices[i]), shares[i], static_cast<long long>(i),
                     static_cast<long long>(length - 1));
  return nullptr;
}

// What the weights of an attention to cells are made of.
struct AttentionInputs {
  Named queries, keys, row_logits, column_logits;
  const int64_t *row_cells, *column_cells;
};

const char* check_weights_of_attention(const AttentionInputs& in) {
  if (const char* wrong = check_attention_weights(in.queries, in.keys, in.row_logits, in.column_logits, kLargestKernel))
    return wrong;
  if (const char* wrong = check_plain(in.queries)) return wrong;
  const int64_t *const fine = in.queries.tensor->size, *const coarse = in.keys.tensor->size;
  if (const char* wrong = check_cells_of_lines("row_cells", in.row_cells, fine[2], coarse[2])) return wrong;
  if (const char* wrong = check_cells_of_lines("column_cells", in.column_cells, fine[3], coarse[3])) return wrong;
  return is_empty(*in.queries.tensor) ? nullptr : check_adjacent_columns(in.queries);
}

// The output, or the gradient of it, leads with the values.
const char* check_attention(const AttentionInputs& in, const Named& values, const Named& output) {
  if (const char* wrong = check_weights_of_attention(in)) return wrong;
  if (const char* wrong = check_attention_values(in.queries, in.keys, values, output)) return wrong;
  return is_empty(*values.tensor) ? nullptr : check_layouts(*values.tensor, *output.tensor);
}

}  // namespace
}  // namespace featup

using namespace featup;

int32_t featup_abi_version(void) { return FEATUP_ABI_VERSION; }

const char* featup_instruction_set(void) { return chosen().load()->name; }

const char* featup_use_instruction_set(const char* name) {
  if (name == nullptr) return message("name is missing");
  const Kernels* const fastest = best();
  const Kernels* wanted = strcmp(name, "best") == 0 ? fastest : nullptr;
  if (strcmp(name, kernels_baseline.name) == 0) wanted = &kernels_baseline;
#if defined(FEATUP_X86_VARIANTS)
  if (strcmp(name, kernels_avx2.name) == 0 && fastest != &kernels_baseline) wanted = &kernels_avx2;
  if (strcmp(name, kernels_avx512.name) == 0 && fastest == &kernels_avx512) wanted = &kernels_avx512;
#endif
  if (wanted == nullptr) return message("name is '%.40s', which this processor does not have", name);
  chosen().store(wanted);
  return nullptr;
}

const char* featup_window_sum(const featup_tensor* padded, const featup_tensor* weights, const featup_tensor* output,
                              int32_t kernel_size, int32_t threads) {
  return run_window_sum({"padded", padded}, {"weights", weights}, {"output", output}, kernel_size, threads, false);
}

const char* featup_window_sum_grad_input(const featup_tensor* grad, const featup_tensor* weights,
                                         const featup_tensor* grad_input, int32_t kernel_size, int32_t threads) {
  return run_window_sum({"grad", grad}, {"weights", weights}, {"grad_input", grad_input}, kernel_size, threads, true);
}

const char* featup_window_sum_grad_weights(const featup_tensor* padded, const featup_tensor* grad,
                                           const featup_tensor* grad_weights, int32_t kernel_size, int32_t threads) {
  const Named input{"padded", padded}, centre{"grad", grad}, output{"grad_weights", grad_weights};
  if (const char* wrong = check_threads(threads)) return wrong;
  if (const char* wrong = check_window_sum(input, output, centre, kernel_size, kLargestKernel)) return wrong;
  if (const char* wrong = check_same_precision(centre, input)) return wrong;
  if (const char* wrong = check_same_precision(output, input)) return wrong;
  if (is_empty(*grad_weights)) return nullptr;
  if (grad->size[1] == 0) return clear(*grad_weights), nullptr;
  expect_writing(*grad_weights);
  const WindowGradWeightsJob job{*padded, *grad, *grad_weights, kernel_size, threads};
  return out_of_memory(chosen().load()->window_grad_weights(job));
}

const char* featup_range_softmax(const featup_tensor* keys, double temperature, const double* bias,
                                 const featup_tensor* output, int32_t kernel_size, int32_t threads) {
  return run_window_weights({"keys", keys}, temperature, bias, {"output", output}, kernel_size, threads, false);
}

const char* featup_bilateral_weights(const featup_tensor* guidance, double scale, const double* bias,
                                     const featup_tensor* output, int32_t kernel_size, int32_t threads) {
  return run_window_weights({"guidance", guidance}, scale, bias, {"output", output}, kernel_size, threads, true);
}

const char* featup_guided_double(const featup_tensor* source, const featup_tensor* weights, const featup_tensor* output,
                                 const featup_place* place, int32_t threads) {
  const Named coarse{"source", source}, window{"weights", weights}, fine{"output", output};
  if (const char* wrong = check_threads(threads)) return wrong;
  if (const char* wrong = check_guided_double(coarse, window, fine, place)) return wrong;
  if (const char* wrong = check_plain(coarse)) return wrong;
  if (const char* wrong = check_same_precision(window, coarse)) return wrong;
  if (const char* wrong = check_layouts(*source, *output)) return wrong;
  if (is_empty(*output)) return nullptr;
  if (const char* wrong = check_adjacent_columns(window)) return wrong;
  expect_writing(*output);
  const DoublingJob job{*source, *weights, *output, *place, threads};
  return out_of_memory(chosen().load()->guided_double(job));
}

const char* featup_bilinear(const featup_tensor* source, const featup_tensor* output, const int64_t* rows,
                            const double* row_shares, const int64_t* columns, const double* column_shares,
                            int32_t threads) {
  const Named coarse{"source", source}, fine{"output", output};
  if (const char* wrong = check_threads(threads)) return wrong;
  if (const char* wrong = check_tensors({coarse, fine})) return wrong;
  const int64_t *from = source->size, *to = output->size;
  if (const char* wrong = check_shape(fine, from[0], from[1], to[2], to[3])) return wrong;
  if (const char* wrong = check_plain(coarse)) return wrong;
  if (const char* wrong = check_same_dtype(fine, coarse)) return wrong;
  if (const char* wrong = check_layouts(*source, *output)) return wrong;
  if (is_empty(*output)) return nullptr;
  if (const char* wrong = check_indices("rows", rows, row_shares, to[2], from[2])) return wrong;
  if (const char* wrong = check_indices("columns", columns, column_shares, to[3], from[3])) return wrong;
  expect_writing(*output);
  const BilinearJob job{*source, *output, rows, row_shares, columns, column_shares, threads};
  return out_of_memory(chosen().load()->bilinear(job));
}

const char* featup_pixel_network(const featup_tensor* first, const featup_tensor* second, const featup_tensor* weights1,
                                 const featup_tensor* bias1, const featup_tensor* weights2, const featup_tensor* bias2,
                                 const featup_tensor* output, double skip, double scale, int32_t threads) {
  const Named all[] = {{"first", first},       {"second", second}, {"weights1", weights1}, {"bias1", bias1},
                       {"weights2", weights2}, {"bias2", bias2},   {"output", output}};
  if (const char* wrong = check_threads(threads)) return wrong;
  for (const Named& named : all) {
    if (const char* wrong = check_tensor(named)) return wrong;
    if (named.tensor->dtype > FEATUP_FLOAT64 || named.tensor->dtype != first->dtype)
      return message("%s must be float32 or float64, as all are", named.name);
    if (is_empty(*named.tensor) || named.tensor->size[3] == 1) continue;
    if (const char* wrong = check_adjacent_columns(named)) return wrong;
  }
  const int64_t batch = output->size[0], height = output->size[2], width = output->size[3], outputs = output->size[1];
  const int64_t hidden = weights1->size[2], inputs = first->size[1] + second->size[1];
  const struct {
    Named named;
    int64_t b, c, y, x;
  } shapes[] = {{all[0], batch, first->size[1], height, width},
                {all[1], batch, second->size[1], height, width},
                {all[2], 1, 1, hidden, inputs},
                {all[3], 1, 1, 1, hidden},
                {all[4], 1, 1, outputs, hidden},
                {all[5], 1, 1, 1, outputs}};
  for (const auto& each : shapes)
    if (const char* wrong = check_shape(each.named, each.b, each.c, each.y, each.x)) return wrong;
  if ((hidden > 1 && weights1->stride[2] != inputs) || (outputs > 1 && weights2->stride[2] != hidden))
    return message("weights1 and weights2 must not have gaps between their rows");
  if (skip != 0 && first->size[1] < outputs) return message("first has too few channels to be added to the output");
  if (is_empty(*output)) return nullptr;
  expect_writing(*output);
  const PixelNetworkJob job{*first,      *second, *output, weights1->data, bias1->data, weights2->data,
                            bias2->data, hidden,  skip,    scale,          threads};
  return out_of_memory(chosen().load()->pixel_network(job));
}

const char* featup_cell_attention(const featup_tensor* queries, const featup_tensor* keys, const featup_tensor* values,
                                  const featup_tensor* row_logits, const featup_tensor* column_logits,
                                  const int64_t* row_cells, const int64_t* column_cells, const featup_tensor* output,
                                  int32_t threads) {
  const AttentionInputs inputs{
      {"queries", queries}, {"keys", keys}, {"row_logits", row_logits}, {"column_logits", column_logits}, row_cells,
      column_cells};
  if (const char* wrong = check_threads(threads)) return wrong;
  if (const char* wrong = check_attention(inputs, {"values", values}, {"output", output})) return wrong;
  if (is_empty(*output)) return nullptr;
  expect_writing(*output);
  const AttentionJob job{*queries,  *keys,        *values, *row_logits, *column_logits,
                         row_cells, column_cells, *output, threads};
  return out_of_memory(chosen().load()->cell_attention(job));
}

const char* featup_cell_attention_weights(const featup_tensor* queries, const featup_tensor* keys,
                                          const featup_tensor* row_logits, const featup_tensor* column_logits,
                                          const int64_t* row_cells, const int64_t* column_cells,
                                          const featup_tensor* output, int32_t threads) {
  const AttentionInputs inputs{
      {"queries", queries}, {"keys", keys}, {"row_logits", row_logits}, {"column_logits", column_logits}, row_cells,
      column_cells};
  const Named result{"output", output};
  if (const char* wrong = check_threads(threads)) return wrong;
  if (const char* wrong = check_weights_of_attention(inputs)) return wrong;
  if (const char* wrong = check_tensor(result)) return wrong;
  const int64_t taps = row_logits->size[3] * row_logits->size[3];
  if (const char* wrong = check_shape(result, queries->size[0], taps, queries->size[2], queries->size[3])) return wrong;
  if (const char* wrong = check_same_dtype(result, inputs.queries)) return wrong;
  if (is_empty(*output)) return nullptr;
  if (const char* wrong = check_adjacent_columns(result)) return wrong;
  expect_writing(*output);
  const AttentionJob job{*queries, *keys, {}, *row_logits, *column_logits, row_cells, column_cells, *output, threads};
  return out_of_memory(chosen().load()->cell_attention_weights(job));
}

const char* featup_cell_attention_backward(const featup_tensor* queries, const featup_tensor* keys,
                                           const featup_tensor* values, const featup_tensor* row_logits,
                                           const featup_tensor* column_logits, const int64_t* row_cells,
                                           const int64_t* column_cells, const featup_tensor* grad,
                                           const featup_tensor* grad_queries, const featup_tensor* grad_keys,
                                           const featup_tensor* grad_values, const featup_tensor* grad_row_logits,
                                           const featup_tensor* grad_column_logits, int32_t threads) {
  const AttentionInputs inputs{
      {"queries", queries}, {"keys", keys}, {"row_logits", row_logits}, {"column_logits", column_logits}, row_cells,
      column_cells};
  if (const char* wrong = check_threads(threads)) return wrong;
  if (const char* wrong = check_attention(inputs, {"values", values}, {"grad", grad})) return wrong;
  const struct {
    Named named;
    const featup_tensor* of;
  } gradients[] = {{{"grad_queries", grad_queries}, queries},
                   {{"grad_keys", grad_keys}, keys},
                   {{"grad_values", grad_values}, values},
                   {{"grad_row_logits", grad_row_logits}, row_logits},
                   {{"grad_column_logits", grad_column_logits}, column_logits}};
  for (const auto& [named, of] : gradients) {
    if (of == values && grad_values == nullptr) continue;
    if (const char* wrong = check_tensor(named)) return wrong;
    if (const char* wrong = check_shape(named, of->size[0], of->size[1], of->size[2], of->size[3])) return wrong;
    if (const char* wrong = check_same_dtype(named, inputs.queries)) return wrong;
  }
  if (!is_empty(*queries))
    if (const char* wrong = check_adjacent_columns({"grad_queries", grad_queries})) return wrong;
  if (grad_values != nullptr) {
    if (const char* wrong = check_layouts(*values, *grad_values)) return wrong;
    clear(*grad_values);
  }
  clear(*grad_keys);
  if (is_empty(*grad)) return clear(*grad_queries), clear(*grad_row_logits), clear(*grad_column_logits), nullptr;
  const AttentionJob forward{*queries,  *keys,        *values, *row_logits, *column_logits,
                             row_cells, column_cells, *grad,   threads};
  const AttentionGradientJob job{forward,     *grad_queries,    *grad_keys,
                                 grad_values, *grad_row_logits, *grad_column_logits};
  return out_of_memory(chosen().load()->cell_attention_gradient(job));
}

const char* featup_round_weights(const featup_tensor* weights, const featup_tensor* output, int32_t threads) {
  const Named exact{"weights", weights}, rounded{"output", output};
  if (const char* wrong = check_threads(threads)) return wrong;
  if (const char* wrong = check_tensors({exact, rounded})) return wrong;
  const int64_t* const size = weights->size;
  if (const char* wrong = check_shape(rounded, size[0], size[1], size[2], size[3])) return wrong;
  if (weights->dtype != FEATUP_FLOAT32) return message("weights must be float32");
  if (output->dtype != FEATUP_FLOAT16) return message("output must be float16");
  if (is_empty(*output)) return nullptr;
  if (const char* wrong = check_adjacent_columns(exact)) return wrong;
  if (const char* wrong = check_adjacent_columns(rounded)) return wrong;
  expect_writing(*output);
  const RoundingJob job{*weights, *output, threads};
  return out_of_memory(chosen().load()->round_weights(job));
}

const char* featup_multiply_add(int64_t rounds, int32_t threads, double* operations) {
  if (const char* wrong = check_threads(threads)) return wrong;
  if (operations == nullptr) return message("operations is missing");
  if (rounds < 0) return message("rounds is %lld; expected none below 0", static_cast<long long>(rounds));
  const MultiplyAddJob job{rounds, operations, threads};
  return out_of_memory(chosen().load()->multiply_add(job));
}
