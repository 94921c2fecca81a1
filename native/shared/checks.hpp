// The checks of arguments that both libraries make, and the messages about what does not fit. C++17, without CUDA.
#pragma once

#include <cstdarg>
#include <cstdint>
#include <cstdio>
#include <initializer_list>

#include "featup_tensor.h"

namespace featup {

// The text belongs to the calling thread and is valid until its next message.
#if defined(__GNUC__)
__attribute__((format(printf, 1, 2)))
#endif
inline const char* message(const char* format, ...) {
  static thread_local char text[400];
  std::va_list values;
  va_start(values, format);
  std::vsnprintf(text, sizeof text, format, values);
  va_end(values);
  return text;
}

// An argument and what messages call it.
struct Named {
  const char* name;
  const featup_tensor* tensor;
};

inline bool is_empty(const featup_tensor& tensor) {
  for (const int64_t size : tensor.size)
    if (size == 0) return true;
  return false;
}

inline int bytes_of(int32_t dtype) { return dtype == FEATUP_FLOAT64 ? 8 : dtype == FEATUP_FLOAT32 ? 4 : 2; }

inline const char* check_tensor(const Named& named) {
  const featup_tensor* const tensor = named.tensor;
  if (tensor == nullptr) return message("%s is missing", named.name);
  if (tensor->dtype < FEATUP_FLOAT32 || tensor->dtype > FEATUP_BFLOAT16)
    return message("%s has number format %d; expected float32, float64, float16 or bfloat16", named.name,
                   int(tensor->dtype));
  for (int i = 0; i < 4; ++i)
    if (tensor->size[i] < 0 || tensor->stride[i] < 0)
      return message("%s has size %lld and stride %lld in dimension %d; expected none below 0", named.name,
                     static_cast<long long>(tensor->size[i]), static_cast<long long>(tensor->stride[i]), i);
  if (is_empty(*tensor)) return nullptr;
  if (tensor->data == nullptr) return message("%s has no memory", named.name);
  if (reinterpret_cast<uintptr_t>(tensor->data) % bytes_of(tensor->dtype) != 0)
    return message("%s is not aligned to its numbers", named.name);
  return nullptr;
}

inline const char* check_tensors(std::initializer_list<Named> all) {
  for (const Named& named : all)
    if (const char* wrong = check_tensor(named)) return wrong;
  return nullptr;
}

inline const char* check_shape(const Named& named, int64_t b, int64_t c, int64_t y, int64_t x) {
  const int64_t expected[4] = {b, c, y, x};
  const int64_t* const size = named.tensor->size;
  for (int i = 0; i < 4; ++i)
    if (size[i] != expected[i])
      return message("%s has shape (%lld, %lld, %lld, %lld); expected (%lld, %lld, %lld, %lld)", named.name,
                     static_cast<long long>(size[0]), static_cast<long long>(size[1]), static_cast<long long>(size[2]),
                     static_cast<long long>(size[3]), static_cast<long long>(b), static_cast<long long>(c),
                     static_cast<long long>(y), static_cast<long long>(x));
  return nullptr;
}

inline const char* check_kernel_size(int64_t kernel_size, int largest) {
  if (kernel_size >= 1 && kernel_size % 2 == 1 && kernel_size <= largest) return nullptr;
  return message("kernel_size is %lld; expected an odd number up to %d", static_cast<long long>(kernel_size), largest);
}

inline const char* check_same_dtype(const Named& named, const Named& leader) {
  if (named.tensor->dtype == leader.tensor->dtype) return nullptr;
  return message("%s must have the number format of %s", named.name, leader.name);
}

// Both in float64, or neither: sums are taken in one of the two precisions.
inline const char* check_same_precision(const Named& named, const Named& leader) {
  if ((named.tensor->dtype == FEATUP_FLOAT64) == (leader.tensor->dtype == FEATUP_FLOAT64)) return nullptr;
  return message("%s must be float64 exactly if %s is", named.name, leader.name);
}

// The three tensors of a window sum and of both its gradients, one of which is the output: padded (B, C, H + k - 1, W +
// k - 1), weights (B, k * k, H, W) and unpadded (B, C, H, W), whose sizes lead.
inline const char* check_window_sum(const Named& padded, const Named& weights, const Named& unpadded,
                                    int64_t kernel_size, int largest) {
  if (const char* wrong = check_kernel_size(kernel_size, largest)) return wrong;
  if (const char* wrong = check_tensors({padded, weights, unpadded})) return wrong;
  const int64_t* const size = unpadded.tensor->size;
  const int64_t edge = kernel_size - 1;
  if (const char* wrong = check_shape(weights, size[0], kernel_size * kernel_size, size[2], size[3])) return wrong;
  return check_shape(padded, size[0], size[1], size[2] + edge, size[3] + edge);
}

// The two tensors of an operator that makes window weights: padded (B, D, H + k - 1, W + k - 1), output (B, k * k, H,
// W).
inline const char* check_window_weights(const Named& padded, const Named& output, int64_t kernel_size, int largest) {
  if (const char* wrong = check_kernel_size(kernel_size, largest)) return wrong;
  if (const char* wrong = check_tensors({padded, output})) return wrong;
  const int64_t* const size = padded.tensor->size;
  const int64_t edge = kernel_size - 1;
  if (size[2] < edge || size[3] < edge)
    return message("%s has %lld rows and %lld columns; expected at least %lld of each", padded.name,
                   static_cast<long long>(size[2]), static_cast<long long>(size[3]), static_cast<long long>(edge));
  if (const char* wrong = check_shape(output, size[0], kernel_size * kernel_size, size[2] - edge, size[3] - edge))
    return wrong;
  return check_same_dtype(output, padded);
}

// Whether `count` lines from `begin` on are part of `length` ones.
inline const char* check_part(const char* name, int64_t begin, int64_t count, int64_t length) {
  if (begin >= 0 && length >= 0 && length <= int64_t(1) << 30 && begin <= length - count) return nullptr;
  return message("%s covers lines %lld to %lld of a map with %lld", name, static_cast<long long>(begin),
                 static_cast<long long>(begin + count), static_cast<long long>(length));
}

// Whether the source holds the coarse lines within three of those that the fine lines lie in.
inline const char* check_cells(int64_t begin, int64_t count, int64_t coarse, int64_t source_begin,
                               int64_t source_count) {
  const int64_t first = begin / 2 > 3 ? begin / 2 - 3 : 0;
  const int64_t reached = (begin + count - 1) / 2 + 4, end = reached < coarse ? reached : coarse;
  if (first >= source_begin && end <= source_begin + source_count) return nullptr;
  return message("source holds the coarse lines %lld to %lld; the output needs %lld to %lld",
                 static_cast<long long>(source_begin), static_cast<long long>(source_begin + source_count),
                 static_cast<long long>(first), static_cast<long long>(end));
}

// A guided doubling: source (B, C, r, c), weights (B, 49, H, W), output (B, C, H, W), and where they lie.
inline const char* check_guided_double(const Named& source, const Named& weights, const Named& output,
                                       const featup_place* place) {
  if (const char* wrong = check_tensors({source, weights, output})) return wrong;
  if (place == nullptr) return message("place is missing");
  const int64_t* const coarse = source.tensor->size;
  const int64_t* const fine = output.tensor->size;
  if (const char* wrong = check_shape(weights, coarse[0], 49, fine[2], fine[3])) return wrong;
  if (const char* wrong = check_shape(output, coarse[0], coarse[1], fine[2], fine[3])) return wrong;
  if (const char* wrong = check_same_dtype(output, source)) return wrong;
  if (const char* wrong = check_part("source", place->source_top, coarse[2], place->coarse_rows)) return wrong;
  if (const char* wrong = check_part("source", place->source_left, coarse[3], place->coarse_columns)) return wrong;
  if (const char* wrong = check_part("output", place->top, fine[2], 2 * place->coarse_rows)) return wrong;
  if (const char* wrong = check_part("output", place->left, fine[3], 2 * place->coarse_columns)) return wrong;
  if (is_empty(*output.tensor)) return nullptr;
  if (const char* wrong = check_cells(place->top, fine[2], place->coarse_rows, place->source_top, coarse[2]))
    return wrong;
  return check_cells(place->left, fine[3], place->coarse_columns, place->source_left, coarse[3]);
}

// The tensors that the weights of an attention to cells are made of: queries (B, E, H, W), keys (B, E, h, w),
// row_logits (1, 1, H, k) and column_logits (1, 1, W, k).
inline const char* check_attention_weights(const Named& queries, const Named& keys, const Named& row_logits,
                                           const Named& column_logits, int largest) {
  if (const char* wrong = check_tensors({queries, keys, row_logits, column_logits})) return wrong;
  const int64_t *const fine = queries.tensor->size, *const coarse = keys.tensor->size;
  const int64_t kernel_size = row_logits.tensor->size[3];
  if (kernel_size < 1 || kernel_size % 2 == 0 || kernel_size > largest)
    return message("%s has %lld taps; expected an odd number up to %d", row_logits.name,
                   static_cast<long long>(kernel_size), largest);
  if (const char* wrong = check_shape(keys, fine[0], fine[1], coarse[2], coarse[3])) return wrong;
  if (const char* wrong = check_shape(row_logits, 1, 1, fine[2], kernel_size)) return wrong;
  if (const char* wrong = check_shape(column_logits, 1, 1, fine[3], kernel_size)) return wrong;
  for (const Named& named : {keys, row_logits, column_logits})
    if (const char* wrong = check_same_dtype(named, queries)) return wrong;
  return nullptr;
}

// The values of an attention to cells, (B, C, h, w), and its output or the gradient of that, (B, C, H, W).
inline const char* check_attention_values(const Named& queries, const Named& keys, const Named& values,
                                          const Named& output) {
  if (const char* wrong = check_tensors({values, output})) return wrong;
  const int64_t *const fine = queries.tensor->size, *const coarse = keys.tensor->size;
  const int64_t channels = values.tensor->size[1];
  if (const char* wrong = check_shape(values, coarse[0], channels, coarse[2], coarse[3])) return wrong;
  if (const char* wrong = check_shape(output, fine[0], channels, fine[2], fine[3])) return wrong;
  if (const char* wrong = check_same_dtype(values, queries)) return wrong;
  return check_same_dtype(output, queries);
}

// Whether the coarse lines that the output's lines lie in, in memory of the host, are in the grid and in order.
inline const char* check_cells_of_lines(const char* name, const int64_t* cells, int64_t count, int64_t length) {
  if (count > 0 && cells == nullptr) return message("%s is missing", name);
  for (int64_t i = 0; i < count; ++i) {
    if (cells[i] < 0 || cells[i] >= length)
      return message("%s has %lld at %lld; expected 0 to %lld", name, static_cast<long long>(cells[i]),
                     static_cast<long long>(i), static_cast<long long>(length - 1));
    if (i > 0 && cells[i] < cells[i - 1])
      return message("%s has %lld after %lld at %lld; expected numbers that do not decrease", name,
                     static_cast<long long>(cells[i]), static_cast<long long>(cells[i - 1]), static_cast<long long>(i));
  }
  return nullptr;
}

}  // namespace featup
