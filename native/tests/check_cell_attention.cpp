// The attention to cells and its gradients against plain loops.
#include <cmath>
#include <vector>

#include "operands.hpp"

namespace {

struct Shape {
  int64_t rows, columns, height, width, embeddings, channels, k;
};

template <class T>
struct Attention {
  Shape of;
  int64_t batch = 2, taps;
  Operand<T> queries, keys, values, row_logits, column_logits, weights, output, grad;
  Operand<T> grad_queries, grad_keys, grad_values, grad_row_logits, grad_column_logits;
  std::vector<int64_t> row_cells, column_cells;
  bool unchanged = false;  // whether the gradients are the same without that of the values

  explicit Attention(const Shape& shape)
      : of(shape),
        taps(of.k * of.k),
        queries(batch, of.embeddings, of.height, of.width, 0),
        keys(batch, of.embeddings, of.rows, of.columns, 2),
        values(batch, of.channels, of.rows, of.columns, of.channels > 8 ? 1 : 0),
        row_logits(1, 1, of.height, of.k, 2),
        column_logits(1, 1, of.width, of.k, 0),
        weights(batch, taps, of.height, of.width, 0),
        output(batch, of.channels, of.height, of.width, of.channels > 8 ? 1 : 0),
        grad(batch, of.channels, of.height, of.width, of.channels > 8 ? 1 : 0),
        grad_queries(batch, of.embeddings, of.height, of.width, 0),
        grad_keys(batch, of.embeddings, of.rows, of.columns, 2),
        grad_values(batch, of.channels, of.rows, of.columns, of.channels > 8 ? 1 : 0),
        grad_row_logits(1, 1, of.height, of.k, 2),
        grad_column_logits(1, 1, of.width, of.k, 0) {
    for (int64_t y = 0; y < of.height; ++y) row_cells.push_back(y * of.rows / of.height);
    for (int64_t x = 0; x < of.width; ++x) column_cells.push_back(x * of.columns / of.width);
  }

  void compute(int threads) {
    run(featup_cell_attention(&queries.view, &keys.view, &values.view, &row_logits.view, &column_logits.view,
                              row_cells.data(), column_cells.data(), &output.view, threads));
    run(featup_cell_attention_weights(&queries.view, &keys.view, &row_logits.view, &column_logits.view,
                                      row_cells.data(), column_cells.data(), &weights.view, threads));
    run(featup_cell_attention_backward(&queries.view, &keys.view, &values.view, &row_logits.view, &column_logits.view,
                                       row_cells.data(), column_cells.data(), &grad.view, &grad_queries.view,
                                       &grad_keys.view, &grad_values.view, &grad_row_logits.view,
                                       &grad_column_logits.view, threads));
    const std::vector<T> keys_before = grad_keys.memory, rows_before = grad_row_logits.memory;
    run(featup_cell_attention_backward(&queries.view, &keys.view, &values.view, &row_logits.view, &column_logits.view,
                                       row_cells.data(), column_cells.data(), &grad.view, &grad_queries.view,
                                       &grad_keys.view, nullptr, &grad_row_logits.view, &grad_column_logits.view,
                                       threads));
    unchanged = keys_before == grad_keys.memory && rows_before == grad_row_logits.memory;
  }

  // The weight of each tap of a pixel.
  std::vector<double> weights_of(int64_t b, int64_t y, int64_t x) {
    std::vector<double> found(taps, 0.0);
    double total = 0;
    for (int64_t t = 0; t < taps; ++t) {
      const int64_t row = row_cells[y] + t / of.k - of.k / 2, column = column_cells[x] + t % of.k - of.k / 2;
      if (row < 0 || row >= of.rows || column < 0 || column >= of.columns) continue;
      double logit = double(row_logits.at(0, 0, y, t / of.k)) + double(column_logits.at(0, 0, x, t % of.k));
      for (int64_t e = 0; e < of.embeddings; ++e)
        logit += double(queries.at(b, e, y, x)) * double(keys.at(b, e, row, column));
      total += found[t] = std::exp(logit);
    }
    for (double& weight : found) weight /= total;
    return found;
  }

  void compare() {
    bool outputs = true, shares = true, to_queries = true, others = true;
    std::vector<double> to_keys(keys.memory.size()), to_values(values.memory.size()), to_rows(row_logits.memory.size()),
        to_columns(column_logits.memory.size());
    const auto index = [](const Operand<T>& of, int64_t b, int64_t c, int64_t y, int64_t x) {
      const int64_t* const stride = of.view.stride;
      return b * stride[0] + c * stride[1] + y * stride[2] + x * stride[3];
    };
    for (int64_t b = 0; b < batch; ++b)
      for (int64_t y = 0; y < of.height; ++y)
        for (int64_t x = 0; x < of.width; ++x) {
          const std::vector<double> share = weights_of(b, y, x);
          std::vector<double> result(of.channels, 0.0), product(taps, 0.0), to_query(of.embeddings, 0.0);
          double mean = 0;
          const int64_t top = row_cells[y] - of.k / 2, left = column_cells[x] - of.k / 2;
          for (int64_t t = 0; t < taps; ++t) {
            shares = shares && near(weights.at(b, t, y, x), share[t]);
            if (share[t] == 0) continue;
            for (int64_t c = 0; c < of.channels; ++c) {
              const double value = double(values.at(b, c, top + t / of.k, left + t % of.k));
              result[c] += share[t] * value;
              product[t] += double(grad.at(b, c, y, x)) * value;
              to_values[index(values, b, c, top + t / of.k, left + t % of.k)] += share[t] * double(grad.at(b, c, y, x));
            }
            mean += share[t] * product[t];
          }
          for (int64_t c = 0; c < of.channels; ++c) outputs = outputs && near(output.at(b, c, y, x), result[c]);
          for (int64_t t = 0; t < taps; ++t) {
            if (share[t] == 0) continue;
            const double through = share[t] * (product[t] - mean);
            to_rows[index(row_logits, 0, 0, y, t / of.k)] += through;
            to_columns[index(column_logits, 0, 0, x, t % of.k)] += through;
            for (int64_t e = 0; e < of.embeddings; ++e) {
              to_query[e] += through * double(keys.at(b, e, top + t / of.k, left + t % of.k));
              to_keys[index(keys, b, e, top + t / of.k, left + t % of.k)] += through * double(queries.at(b, e, y, x));
            }
          }
          for (int64_t e = 0; e < of.embeddings; ++e)
            to_queries = to_queries && near(grad_queries.at(b, e, y, x), to_query[e]);
        }
    const auto agree = [&](Operand<T>& found, const std::vector<double>& expected) {
      const int64_t* const size = found.view.size;
      for (int64_t b = 0; b < size[0]; ++b)
        for (int64_t c = 0; c < size[1]; ++c)
          for (int64_t y = 0; y < size[2]; ++y)
            for (int64_t x = 0; x < size[3]; ++x)
              others = others && near(found.at(b, c, y, x), expected[index(found, b, c, y, x)]);
    };
    agree(grad_keys, to_keys);
    agree(grad_values, to_values);
    agree(grad_row_logits, to_rows);
    agree(grad_column_logits, to_columns);
    expect(outputs, "cell_attention", of.channels, of.height, of.width, int(of.k));
    expect(shares, "cell_attention_weights", of.channels, of.height, of.width, int(of.k));
    expect(to_queries, "cell_attention_backward, queries", of.channels, of.height, of.width, int(of.k));
    expect(others, "cell_attention_backward", of.channels, of.height, of.width, int(of.k));
    expect(unchanged, "cell_attention_backward without values", of.channels, of.height, of.width, int(of.k));
  }
};

template <class T>
void check(const Shape& shape, int threads) {
  Attention<T> attention(shape);
  attention.compute(threads);
  attention.compare();
}

}  // namespace

int check_cell_attention() {
  int cases = 0;
  for (const int64_t channels : {1, 3, 8, 9, 17, 40, 130})
    for (const int64_t k : {1, 3, 5})
      for (const int64_t width : {1, 7, 17, 40}) {
        check<float>({3, 4, 5, width, 1 + cases % 5, channels, k}, 1 + cases % 2);
        check<double>({1, 5, 3, width, 4, channels, k}, 2 - cases % 2);
        cases += 2;
      }
  // A window larger than the grid, cells of more pixels than a block, and cells without pixels.
  check<float>({2, 2, 35, 37, 4, 20, 7}, 2);
  check<float>({1, 1, 40, 50, 4, 3, 3}, 2);
  check<double>({7, 9, 2, 3, 32, 12, 3}, 2);
  return cases + 3;
}
