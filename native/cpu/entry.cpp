// The C interface: checks every argument, then hands the job to the kernels of this processor.
#include <atomic>
#include <cstdarg>
#include <cstdio>
#include <cstring>

#if defined(__linux__)
#include <sys/mman.h>
#endif

#include "kernels.hpp"

namespace featup {
namespace {

const Kernels* best() {
#if defined(FEATUP_X86_VARIANTS)
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
      __builtin_cpu_supports("avx512vl"))
    return &kernels_avx512;
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c")) return &kernels_avx2;
#endif
  return &kernels_baseline;
}

std::atomic<const Kernels*>& chosen() {
  static std::atomic<const Kernels*> kernels{best()};
  return kernels;
}

const char* message(const char* format, ...) {
  static thread_local char text[400];
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(text, sizeof text, format, arguments);
  va_end(arguments);
  return text;
}

const char* out_of_memory(bool done) { return done ? nullptr : "result cannot be computed: there is not enough memory"; }

bool is_empty(const featup_tensor& tensor) {
  for (const int64_t size : tensor.size)
    if (size == 0) return true;
  return false;
}

const char* check_tensor(const char* name, const featup_tensor* tensor) {
  if (tensor == nullptr) return message("%s is missing", name);
  if (tensor->dtype < FEATUP_FLOAT32 || tensor->dtype > FEATUP_BFLOAT16)
    return message("%s has number format %d; expected float32, float64, float16 or bfloat16", name, int(tensor->dtype));
  for (int i = 0; i < 4; ++i) {
    if (tensor->size[i] < 0 || tensor->stride[i] < 0)
      return message("%s has size %lld and stride %lld in dimension %d; expected none below 0", name,
                     static_cast<long long>(tensor->size[i]), static_cast<long long>(tensor->stride[i]), i);
  }
  if (!is_empty(*tensor)) {
    if (tensor->data == nullptr) return message("%s has no memory", name);
    const uintptr_t unit = tensor->dtype == FEATUP_FLOAT64 ? 8 : tensor->dtype == FEATUP_FLOAT32 ? 4 : 2;
    if (reinterpret_cast<uintptr_t>(tensor->data) % unit != 0) return message("%s is not aligned to its numbers", name);
  }
  return nullptr;
}

const char* check_shape(const char* name, const featup_tensor& tensor, int64_t b, int64_t c, int64_t y, int64_t x) {
  const int64_t expected[4] = {b, c, y, x};
  for (int i = 0; i < 4; ++i)
    if (tensor.size[i] != expected[i])
      return message("%s has shape (%lld, %lld, %lld, %lld); expected (%lld, %lld, %lld, %lld)", name,
                     static_cast<long long>(tensor.size[0]), static_cast<long long>(tensor.size[1]),
                     static_cast<long long>(tensor.size[2]), static_cast<long long>(tensor.size[3]),
                     static_cast<long long>(b), static_cast<long long>(c), static_cast<long long>(y),
                     static_cast<long long>(x));
  return nullptr;
}

const char* check_sizes(int32_t kernel_size, int32_t threads) {
  if (kernel_size < 1 || kernel_size % 2 == 0 || kernel_size > 1023)
    return message("kernel_size is %d; expected an odd number below 1024", int(kernel_size));
  if (threads < 1) return message("threads is %d; expected at least 1", int(threads));
  return nullptr;
}

// Both in float64, or neither: sums are taken in one of the two precisions.
const char* check_precision(const char* name, const featup_tensor& tensor, const char* leader_name,
                            const featup_tensor& leader) {
  if ((tensor.dtype == FEATUP_FLOAT64) != (leader.dtype == FEATUP_FLOAT64))
    return message("%s must be float64 exactly if %s is", name, leader_name);
  return nullptr;
}

// Large results live in fresh memory, which the system hands out in pages of 4 KB at the first touch of each; that takes
// longer than the computation. Asking for large pages makes it a few milliseconds. Only a hint: failure is no matter.
void expect_writing(const featup_tensor& tensor) {
#if defined(__linux__) && defined(MADV_HUGEPAGE)
  const size_t unit = tensor.dtype == FEATUP_FLOAT64 ? 8 : tensor.dtype == FEATUP_FLOAT32 ? 4 : 2;
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
  const size_t unit = tensor.dtype == FEATUP_FLOAT64 ? 8 : tensor.dtype == FEATUP_FLOAT32 ? 4 : 2;
  for (int64_t b = 0; b < tensor.size[0]; ++b)
    for (int64_t c = 0; c < tensor.size[1]; ++c)
      for (int64_t y = 0; y < tensor.size[2]; ++y)
        for (int64_t x = 0; x < tensor.size[3]; ++x)
          memset(static_cast<char*>(tensor.data) + unit * (b * tensor.stride[0] + c * tensor.stride[1] +
                                                           y * tensor.stride[2] + x * tensor.stride[3]),
                 0, unit);
}

const char* run_sum(const char* source_name, const featup_tensor* source, const featup_tensor* weights,
                    const featup_tensor* result, int32_t kernel_size, int32_t threads, bool spread) {
  const char* wrong = nullptr;
  if ((wrong = check_sizes(kernel_size, threads)) || (wrong = check_tensor(source_name, source)) ||
      (wrong = check_tensor("weights", weights)) || (wrong = check_tensor("result", result)))
    return wrong;
  const int64_t batch = weights->size[0], height = weights->size[2], width = weights->size[3], edge = kernel_size - 1;
  const int64_t channels = source->size[1], source_edge = spread ? 0 : edge, result_edge = edge - source_edge;
  if ((wrong = check_shape("weights", *weights, batch, int64_t(kernel_size) * kernel_size, height, width)) ||
      (wrong = check_shape(source_name, *source, batch, channels, height + source_edge, width + source_edge)) ||
      (wrong = check_shape("result", *result, batch, channels, height + result_edge, width + result_edge)) ||
      (wrong = check_precision("weights", *weights, source_name, *source)))
    return wrong;
  if (result->dtype != source->dtype) return message("result must have the number format of %s", source_name);
  if (is_empty(*result)) return nullptr;
  if (height == 0 || width == 0) return clear(*result), nullptr;
  expect_writing(*result);
  const WindowSumJob job{*source, *weights, *result, kernel_size, spread, threads};
  return out_of_memory(chosen().load()->window_sum(job));
}

const char* run_weights(const char* name, const featup_tensor* padded, double factor, const double* bias,
                        const featup_tensor* result, int32_t kernel_size, int32_t threads, bool distances) {
  const char* wrong = nullptr;
  if ((wrong = check_sizes(kernel_size, threads)) || (wrong = check_tensor(name, padded)) ||
      (wrong = check_tensor("result", result)))
    return wrong;
  if (bias == nullptr) return message("bias is missing");
  const int64_t edge = kernel_size - 1;
  if (padded->size[2] < edge || padded->size[3] < edge)
    return message("%s has %lld rows and %lld columns; expected at least %lld of each", name,
                   static_cast<long long>(padded->size[2]), static_cast<long long>(padded->size[3]),
                   static_cast<long long>(edge));
  if ((wrong = check_shape("result", *result, padded->size[0], int64_t(kernel_size) * kernel_size, padded->size[2] - edge,
                           padded->size[3] - edge)))
    return wrong;
  if (padded->dtype > FEATUP_FLOAT64) return message("%s must be float32 or float64", name);
  if (result->dtype != padded->dtype) return message("result must have the number format of %s", name);
  if (is_empty(*result)) return nullptr;
  if (padded->stride[3] != 1) return message("%s must have its columns next to each other", name);
  if (result->stride[3] != 1) return message("result must have its columns next to each other");
  expect_writing(*result);
  const WindowWeightsJob job{*padded, *result, bias, factor, kernel_size, distances, threads};
  return out_of_memory(chosen().load()->window_weights(job));
}

// Many channels lie next to each other, few are planes.
const char* check_layouts(const featup_tensor& source, const featup_tensor& result) {
  if (source.dtype > FEATUP_FLOAT64) return message("source must be float32 or float64");
  if (result.dtype != source.dtype) return message("result must have the number format of source");
  if (is_empty(result)) return nullptr;
  const int along = source.size[1] > kFewChannels ? 1 : 3;
  if (source.stride[along] == 1 && result.stride[along] == 1) return nullptr;
  return message("source and result must have their %s next to each other", along == 1 ? "channels" : "columns");
}

const char* check_indices(const char* name, const int64_t* indices, const double* shares, int64_t count, int64_t length) {
  if (indices == nullptr || shares == nullptr) return message("%s are missing", name);
  for (int64_t i = 0; i < count; ++i)
    if (indices[i] < 0 || indices[i] >= length || !(shares[i] >= 0 && shares[i] <= 1))
      return message("%s has index %lld and share %g at %lld; expected 0 to %lld and 0 to 1", name,
                     static_cast<long long>(indices[i]), shares[i], static_cast<long long>(i),
                     static_cast<long long>(length - 1));
  return nullptr;
}

const char* check_part(const char* name, int64_t begin, int64_t count, int64_t length) {
  if (length > 0 && length < (int64_t(1) << 40) && begin >= 0 && count >= 0 && begin <= length - count) return nullptr;
  return message("%s covers lines %lld to %lld of a map with %lld", name, static_cast<long long>(begin),
                 static_cast<long long>(begin + count), static_cast<long long>(length));
}

// Whether the source holds the cells within three of those that the fine lines lie in.
const char* check_cells(int64_t begin, int64_t count, int64_t coarse, int64_t source_begin, int64_t source_count) {
  const int64_t first = begin / 2 > 3 ? begin / 2 - 3 : 0;
  int64_t end = (begin + count - 1) / 2 + 4;
  if (end > coarse) end = coarse;
  if (first >= source_begin && end <= source_begin + source_count) return nullptr;
  return message("source holds the coarse lines %lld to %lld; the result needs %lld to %lld",
                 static_cast<long long>(source_begin), static_cast<long long>(source_begin + source_count),
                 static_cast<long long>(first), static_cast<long long>(end));
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

const char* featup_window_sum(const featup_tensor* padded, const featup_tensor* weights, const featup_tensor* result,
                              int32_t kernel_size, int32_t threads) {
  return run_sum("padded", padded, weights, result, kernel_size, threads, false);
}

const char* featup_window_spread(const featup_tensor* gradient, const featup_tensor* weights, const featup_tensor* result,
                                 int32_t kernel_size, int32_t threads) {
  return run_sum("gradient", gradient, weights, result, kernel_size, threads, true);
}

const char* featup_window_dot(const featup_tensor* padded, const featup_tensor* gradient, const featup_tensor* result,
                              int32_t kernel_size, int32_t threads) {
  const char* wrong = nullptr;
  if ((wrong = check_sizes(kernel_size, threads)) || (wrong = check_tensor("padded", padded)) ||
      (wrong = check_tensor("gradient", gradient)) || (wrong = check_tensor("result", result)))
    return wrong;
  const int64_t batch = gradient->size[0], channels = gradient->size[1], edge = kernel_size - 1;
  const int64_t height = gradient->size[2], width = gradient->size[3];
  if ((wrong = check_shape("padded", *padded, batch, channels, height + edge, width + edge)) ||
      (wrong = check_shape("result", *result, batch, int64_t(kernel_size) * kernel_size, height, width)) ||
      (wrong = check_precision("gradient", *gradient, "padded", *padded)) ||
      (wrong = check_precision("result", *result, "padded", *padded)))
    return wrong;
  if (is_empty(*result)) return nullptr;
  if (channels == 0) return clear(*result), nullptr;
  expect_writing(*result);
  const WindowDotJob job{*padded, *gradient, *result, kernel_size, threads};
  return out_of_memory(chosen().load()->window_dot(job));
}

const char* featup_range_softmax(const featup_tensor* keys, double temperature, const double* bias,
                                 const featup_tensor* result, int32_t kernel_size, int32_t threads) {
  return run_weights("keys", keys, temperature, bias, result, kernel_size, threads, false);
}

const char* featup_bilateral_weights(const featup_tensor* guidance, double scale, const double* bias,
                                     const featup_tensor* result, int32_t kernel_size, int32_t threads) {
  return run_weights("guidance", guidance, scale, bias, result, kernel_size, threads, true);
}

const char* featup_guided_double(const featup_tensor* source, const featup_tensor* weights, const featup_tensor* result,
                                 const featup_place* place, int32_t threads) {
  const char* wrong = nullptr;
  if ((wrong = check_sizes(7, threads)) || (wrong = check_tensor("source", source)) ||
      (wrong = check_tensor("weights", weights)) || (wrong = check_tensor("result", result)))
    return wrong;
  if (place == nullptr) return message("place is missing");
  const int64_t batch = source->size[0], channels = source->size[1], height = result->size[2], width = result->size[3];
  if ((wrong = check_shape("weights", *weights, batch, 49, height, width)) ||
      (wrong = check_shape("result", *result, batch, channels, height, width)) ||
      (wrong = check_precision("weights", *weights, "source", *source)))
    return wrong;
  if ((wrong = check_layouts(*source, *result))) return wrong;
  if (is_empty(*result)) return nullptr;
  if (weights->stride[3] != 1) return message("weights must have its columns next to each other");
  if ((wrong = check_part("result", place->top, height, 2 * place->coarse_rows)) ||
      (wrong = check_part("result", place->left, width, 2 * place->coarse_columns)) ||
      (wrong = check_part("source", place->source_top, source->size[2], place->coarse_rows)) ||
      (wrong = check_part("source", place->source_left, source->size[3], place->coarse_columns)) ||
      (wrong = check_cells(place->top, height, place->coarse_rows, place->source_top, source->size[2])) ||
      (wrong = check_cells(place->left, width, place->coarse_columns, place->source_left, source->size[3])))
    return wrong;
  expect_writing(*result);
  const DoublingJob job{*source, *weights, *result, place->coarse_rows, place->coarse_columns, place->source_top,
                        place->source_left, place->top, place->left, threads};
  return out_of_memory(chosen().load()->guided_double(job));
}

const char* featup_bilinear(const featup_tensor* source, const featup_tensor* result, const int64_t* rows,
                            const double* row_shares, const int64_t* columns, const double* column_shares,
                            int32_t threads) {
  const char* wrong = nullptr;
  if ((wrong = check_sizes(1, threads)) || (wrong = check_tensor("source", source)) ||
      (wrong = check_tensor("result", result)) ||
      (wrong = check_shape("result", *result, source->size[0], source->size[1], result->size[2], result->size[3])) ||
      (wrong = check_layouts(*source, *result)))
    return wrong;
  if (is_empty(*result)) return nullptr;
  if ((wrong = check_indices("rows", rows, row_shares, result->size[2], source->size[2])) ||
      (wrong = check_indices("columns", columns, column_shares, result->size[3], source->size[3])))
    return wrong;
  expect_writing(*result);
  const BilinearJob job{*source, *result, rows, row_shares, columns, column_shares, threads};
  return out_of_memory(chosen().load()->bilinear(job));
}

const char* featup_pixel_network(const featup_tensor* first, const featup_tensor* second, const featup_tensor* weights1,
                                 const featup_tensor* bias1, const featup_tensor* weights2, const featup_tensor* bias2,
                                 const featup_tensor* result, double skip, double scale, int32_t threads) {
  const char* const names[] = {"first", "second", "weights1", "bias1", "weights2", "bias2", "result"};
  const featup_tensor* const tensors[] = {first, second, weights1, bias1, weights2, bias2, result};
  const char* wrong = nullptr;
  if ((wrong = check_sizes(1, threads))) return wrong;
  for (int i = 0; i < 7; ++i) {
    if ((wrong = check_tensor(names[i], tensors[i]))) return wrong;
    if (tensors[i]->dtype > FEATUP_FLOAT64 || tensors[i]->dtype != first->dtype)
      return message("%s must be float32 or float64, as all are", names[i]);
    if (!is_empty(*tensors[i]) && tensors[i]->stride[3] != 1 && tensors[i]->size[3] != 1)
      return message("%s must have its columns next to each other", names[i]);
  }
  const int64_t batch = result->size[0], height = result->size[2], width = result->size[3], outputs = result->size[1];
  const int64_t hidden = weights1->size[2], inputs = first->size[1] + second->size[1];
  if ((wrong = check_shape("first", *first, batch, first->size[1], height, width)) ||
      (wrong = check_shape("second", *second, batch, second->size[1], height, width)) ||
      (wrong = check_shape("weights1", *weights1, 1, 1, hidden, inputs)) ||
      (wrong = check_shape("bias1", *bias1, 1, 1, 1, hidden)) ||
      (wrong = check_shape("weights2", *weights2, 1, 1, outputs, hidden)) ||
      (wrong = check_shape("bias2", *bias2, 1, 1, 1, outputs)))
    return wrong;
  if ((hidden > 1 && weights1->stride[2] != inputs) || (outputs > 1 && weights2->stride[2] != hidden))
    return message("weights1 and weights2 must not have gaps between their rows");
  if (skip != 0 && first->size[1] < outputs) return message("first has too few channels to be added to the result");
  if (is_empty(*result)) return nullptr;
  expect_writing(*result);
  const PixelNetworkJob job{*first, *second, *result, weights1->data, bias1->data, weights2->data, bias2->data,
                            hidden, skip,    scale,   threads};
  return out_of_memory(chosen().load()->pixel_network(job));
}

const char* featup_round_weights(const featup_tensor* weights, const featup_tensor* result, int32_t threads) {
  const char* wrong = nullptr;
  if ((wrong = check_sizes(1, threads)) || (wrong = check_tensor("weights", weights)) ||
      (wrong = check_tensor("result", result)) ||
      (wrong = check_shape("result", *result, weights->size[0], weights->size[1], weights->size[2], weights->size[3])))
    return wrong;
  if (weights->dtype != FEATUP_FLOAT32) return message("weights must be float32");
  if (result->dtype != FEATUP_FLOAT16) return message("result must be float16");
  if (is_empty(*result)) return nullptr;
  if (weights->stride[3] != 1 || result->stride[3] != 1)
    return message("weights and result must have their columns next to each other");
  expect_writing(*result);
  const RoundingJob job{*weights, *result, threads};
  return out_of_memory(chosen().load()->round_weights(job));
}

const char* featup_multiply_add(int64_t rounds, int32_t threads, double* operations) {
  const char* wrong = check_sizes(1, threads);
  if (wrong) return wrong;
  if (operations == nullptr) return message("operations is missing");
  if (rounds < 0) return message("rounds is %lld; expected none below 0", static_cast<long long>(rounds));
  const MultiplyAddJob job{rounds, operations, threads};
  return out_of_memory(chosen().load()->multiply_add(job));
}
