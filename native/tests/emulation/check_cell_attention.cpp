// The attention to cells and its gradients under the emulation, against loops that follow the definition.

#include <type_traits>

#include "tensors.hpp"

namespace {

struct Shape {
  std::int64_t batch, embeddings, channels, rows, columns, height, width, k;
  Layout layout;
  Case described() const { return {batch, channels, height, width, k, layout}; }
};

template <class T>
void check_cell_attention(const Shape& of) {
  using Total = std::conditional_t<std::is_same_v<T, double>, double, float>;
  const std::int64_t b = of.batch, e = of.embeddings, c = of.channels, h = of.height, w = of.width, k = of.k;
  const std::int64_t taps = k * k;
  Tensor<T> queries(b, e, h, w, of.layout), keys(b, e, of.rows, of.columns, of.layout),
      values(b, c, of.rows, of.columns, of.layout), row_logits(1, 1, h, k, of.layout), column_logits(1, 1, w, k),
      grad(b, c, h, w, of.layout);
  for (Tensor<T>* tensor : {&queries, &keys, &values, &row_logits, &column_logits, &grad}) tensor->fill();
  if (k > 1)
    for (std::int64_t y = 0; y < h; y += 3) write(row_logits.at(0, 0, y, 0), -INFINITY);
  std::vector<std::int64_t> row_cells, column_cells;
  for (std::int64_t y = 0; y < h; ++y) row_cells.push_back(y * of.rows / h);
  for (std::int64_t x = 0; x < w; ++x) column_cells.push_back(x * of.columns / w);

  std::vector<double> output(std::size_t(b * c * h * w)), shares(std::size_t(b * taps * h * w)), through(shares.size()),
      to_queries(std::size_t(b * e * h * w)), to_keys(std::size_t(b * e * of.rows * of.columns)),
      to_values(std::size_t(b * c * of.rows * of.columns));
  for (std::int64_t n = 0; n < b; ++n)
    for (std::int64_t y = 0; y < h; ++y)
      for (std::int64_t x = 0; x < w; ++x) {
        std::vector<double> share(std::size_t(taps), 0.0), product(std::size_t(taps), 0.0);
        std::vector<std::int64_t> cell(std::size_t(taps), -1);
        double total = 0, mean = 0;
        for (std::int64_t tap = 0; tap < taps; ++tap) {
          const std::int64_t row = row_cells[y] + tap / k - k / 2, column = column_cells[x] + tap % k - k / 2;
          if (row < 0 || row >= of.rows || column < 0 || column >= of.columns) continue;
          cell[tap] = row * of.columns + column;
          double logit = row_logits(0, 0, y, tap / k) + column_logits(0, 0, x, tap % k);
          for (std::int64_t p = 0; p < e; ++p) logit += queries(n, p, y, x) * keys(n, p, row, column);
          total += share[tap] = std::exp(logit);
        }
        for (std::int64_t tap = 0; tap < taps; ++tap) {
          if (cell[tap] < 0) continue;
          const std::int64_t row = cell[tap] / of.columns, column = cell[tap] % of.columns;
          share[tap] /= total;
          for (std::int64_t p = 0; p < c; ++p) {
            output[((n * c + p) * h + y) * w + x] += share[tap] * values(n, p, row, column);
            to_values[(n * c + p) * of.rows * of.columns + cell[tap]] += share[tap] * grad(n, p, y, x);
            product[tap] += grad(n, p, y, x) * values(n, p, row, column);
          }
          mean += share[tap] * product[tap];
        }
        for (std::int64_t tap = 0; tap < taps; ++tap) {
          const std::size_t at = ((n * taps + tap) * h + y) * w + x;
          shares[at] = share[tap];
          if (cell[tap] < 0) continue;
          through[at] = share[tap] * (product[tap] - mean);
          for (std::int64_t p = 0; p < e; ++p) {
            to_queries[((n * e + p) * h + y) * w + x] +=
                through[at] * keys(n, p, cell[tap] / of.columns, cell[tap] % of.columns);
            to_keys[(n * e + p) * of.rows * of.columns + cell[tap]] += through[at] * queries(n, p, y, x);
          }
        }
      }

  const Case the = of.described();
  Tensor<T> found(b, c, h, w), weights(b, taps, h, w);
  compare("cell_attention", the,
          featup_cuda_cell_attention(queries.described(), keys.described(), values.described(), row_logits.described(),
                                     column_logits.described(), row_cells.data(), column_cells.data(),
                                     found.described(), nullptr),
          found, output);
  compare("cell_attention_weights", the,
          featup_cuda_cell_attention_weights(queries.described(), keys.described(), row_logits.described(),
                                             column_logits.described(), row_cells.data(), column_cells.data(),
                                             weights.described(), nullptr),
          weights, shares);
  Tensor<Total> kept(b, taps, h, w), grad_logits(b, taps, h, w);
  Tensor<T> grad_queries(b, e, h, w), grad_keys(b, e, of.rows, of.columns), grad_values(b, c, of.rows, of.columns);
  const char* error = featup_cuda_cell_attention_backward(
      queries.described(), keys.described(), values.described(), row_logits.described(), column_logits.described(),
      row_cells.data(), column_cells.data(), grad.described(), kept.described(), grad_logits.described(),
      grad_queries.described(), grad_keys.described(), grad_values.described(), nullptr);
  if (output.empty()) return expect(error == nullptr, "cell_attention_backward of nothing");
  compare("cell_attention_backward, weights", the, error, kept, shares);
  compare("cell_attention_backward, logits", the, error, grad_logits, through);
  compare("cell_attention_backward, queries", the, error, grad_queries, to_queries);
  compare("cell_attention_backward, keys", the, error, grad_keys, to_keys);
  compare("cell_attention_backward, values", the, error, grad_values, to_values);
  Tensor<T> again(b, e, of.rows, of.columns);
  error = featup_cuda_cell_attention_backward(
      queries.described(), keys.described(), values.described(), row_logits.described(), column_logits.described(),
      row_cells.data(), column_cells.data(), grad.described(), kept.described(), grad_logits.described(),
      grad_queries.described(), again.described(), nullptr, nullptr);
  compare("cell_attention_backward without values, keys", the, error, again, to_keys);
}

void check_refusals() {
  const Tensor<float> queries(1, 2, 4, 6), keys(1, 2, 2, 3), values(1, 5, 2, 3), rows(1, 1, 4, 3), columns(1, 1, 6, 3),
      output(1, 5, 4, 6), even(1, 1, 4, 2), few(1, 2, 4, 6), spread(1, 5, 4, 6, every_second);
  const Tensor<double> exact(1, 5, 2, 3);
  const std::vector<std::int64_t> cells(6, 0);
  const auto attend = [&](const featup_tensor* query, const featup_tensor* key, const featup_tensor* value,
                          const featup_tensor* logits, const featup_tensor* to) {
    return featup_cuda_cell_attention(query, key, value, logits, columns.described(), cells.data(), cells.data(), to,
                                      nullptr);
  };
  const featup_tensor *q = queries.described(), *k = keys.described(), *v = values.described(), *r = rows.described(),
                      *o = output.described();
  expect(attend(q, k, v, r, o) == nullptr, "an attention that fits");
  names(attend(nullptr, k, v, r, o), "queries");
  names(attend(q, v, v, r, o), "keys");
  names(attend(q, k, q, r, o), "values");
  names(attend(q, k, exact.described(), r, o), "values");
  names(attend(q, k, v, even.described(), o), "row_logits");
  names(attend(q, k, v, columns.described(), o), "row_logits");
  names(attend(q, k, v, r, few.described()), "output");
  names(attend(q, k, v, r, spread.described()), "output");
  names(featup_cuda_cell_attention_weights(q, k, r, columns.described(), cells.data(), cells.data(), o, nullptr),
        "output");
}

}  // namespace

void check_few_cell_attentions() {
  for (const std::int64_t k : {3, 5, 7, 9})
    check_cell_attention<float>({1, 4, 9, 2, 5, 6, 34, k, k == 5 ? channels_last : contiguous});
}

void check_all_cell_attentions() {
  for (const std::int64_t k : {1, 3, 5, 7, 9}) {
    check_cell_attention<float>({2, 4, 3, 3, 4, 7, 35, k, contiguous});
    check_cell_attention<float>({1, 1, 9, 1, 6, 5, 13, k, channels_last});
    check_cell_attention<double>({1, 3, 6, 5, 2, 12, 3, k, every_second});
    check_cell_attention<__half>({1, 2, 3, 3, 3, 6, 9, k, contiguous});
    check_cell_attention<__nv_bfloat16>({1, 5, 2, 2, 3, 6, 9, k, channels_last});
  }
  check_cell_attention<float>({1, 4, 70, 2, 3, 4, 6, 3, contiguous});  // more channels than one block computes
  check_cell_attention<float>({1, 9, 2, 5, 7, 2, 3, 3, contiguous});   // cells without pixels
  check_cell_attention<float>({0, 2, 3, 2, 2, 4, 4, 3, contiguous});
  check_cell_attention<float>({1, 2, 0, 2, 2, 4, 4, 7, contiguous});
  check_cell_attention<float>({1, 2, 3, 2, 2, 0, 4, 9, contiguous});
  check_cell_attention<float>({1, 0, 3, 2, 2, 4, 4, 5, contiguous});
  check_refusals();
}
