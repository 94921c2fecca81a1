// The CPU kernels against plain loops, meant to be run under the sanitizers: small sizes around every tile, stripe and
// vector boundary, operands that end exactly where their memory does, and padding that must not be touched.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <random>
#include <vector>

#include "featup_native.h"
#include "operands.hpp"

namespace {

template <class T>
void check(int64_t channels, int64_t height, int64_t width, int k, int layout, int threads) {
  const int64_t batch = 2, edge = k - 1, taps = k * k;
  Operand<T> padded(batch, channels, height + edge, width + edge, layout);
  Operand<T> weights(batch, taps, height, width, (layout + 1) % 3);
  Operand<T> gradient(batch, channels, height, width, layout);
  Operand<T> sum(batch, channels, height, width, layout),
      grad_input(batch, channels, height + edge, width + edge, layout);
  Operand<T> grad_weights(batch, taps, height, width, 0);
  run(featup_window_sum(&padded.view, &weights.view, &sum.view, k, threads));
  run(featup_window_sum_grad_input(&gradient.view, &weights.view, &grad_input.view, k, threads));
  run(featup_window_sum_grad_weights(&padded.view, &gradient.view, &grad_weights.view, k, threads));
  std::vector<double> to_padded(batch * channels * (height + edge) * (width + edge), 0.0);
  bool sums = true, grad_weights_right = true, grad_input_right = true, softmax = true;
  Operand<T> keys(batch, channels, height + edge, width + edge, 0), shares(batch, taps, height, width, 0);
  const std::vector<double> bias(taps, 0.0);
  run(featup_range_softmax(&keys.view, 0.7, bias.data(), &shares.view, k, threads));
  for (int64_t b = 0; b < batch; ++b)
    for (int64_t y = 0; y < height; ++y)
      for (int64_t x = 0; x < width; ++x) {
        std::vector<double> logits(taps, 0.0);
        double total = 0;
        for (int64_t t = 0; t < taps; ++t) {
          double product = 0;
          for (int64_t c = 0; c < channels; ++c) {
            product += double(padded.at(b, c, y + t / k, x + t % k)) * double(gradient.at(b, c, y, x));
            to_padded[((b * channels + c) * (height + edge) + y + t / k) * (width + edge) + x + t % k] +=
                double(gradient.at(b, c, y, x)) * double(weights.at(b, t, y, x));
            logits[t] +=
                0.7 * double(keys.at(b, c, y + t / k, x + t % k)) * double(keys.at(b, c, y + k / 2, x + k / 2));
          }
          grad_weights_right = grad_weights_right && near(grad_weights.at(b, t, y, x), product);
          total += std::exp(logits[t]);
        }
        for (int64_t t = 0; t < taps; ++t)
          softmax = softmax && near(shares.at(b, t, y, x), std::exp(logits[t]) / total);
        for (int64_t c = 0; c < channels; ++c) {
          double value = 0;
          for (int64_t t = 0; t < taps; ++t)
            value += double(padded.at(b, c, y + t / k, x + t % k)) * double(weights.at(b, t, y, x));
          sums = sums && near(sum.at(b, c, y, x), value);
        }
      }
  for (int64_t b = 0; b < batch; ++b)
    for (int64_t c = 0; c < channels; ++c)
      for (int64_t y = 0; y < height + edge; ++y)
        for (int64_t x = 0; x < width + edge; ++x)
          grad_input_right =
              grad_input_right && near(grad_input.at(b, c, y, x),
                                       to_padded[((b * channels + c) * (height + edge) + y) * (width + edge) + x]);
  expect(sums, "window_sum", channels, height, width, k);
  expect(grad_input_right, "window_sum_grad_input", channels, height, width, k);
  expect(grad_weights_right, "window_sum_grad_weights", channels, height, width, k);
  expect(softmax, "range_softmax", channels, height, width, k);
}

// float16 as bits, as in the C interface, without slack, and their values as doubles.
struct Halves {
  std::vector<uint16_t> memory;
  featup_tensor view{};

  Halves(int64_t b, int64_t c, int64_t y, int64_t x) : memory(b * c * y * x) {
    const int64_t size[4] = {b, c, y, x}, stride[4] = {c * y * x, y * x, x, 1};
    std::copy(size, size + 4, view.size);
    std::copy(stride, stride + 4, view.stride);
    std::uniform_int_distribution<int> bits(0, 0x3bff);  // 0 to below 1, subnormal ones too
    for (uint16_t& value : memory) value = uint16_t(bits(generator));
    view.data = memory.data();
    view.dtype = FEATUP_FLOAT16;
  }
  double at(int64_t b, int64_t c, int64_t y, int64_t x) const {
    const uint16_t bits = memory[b * view.stride[0] + c * view.stride[1] + y * view.stride[2] + x];
    const int exponent = (bits >> 10) & 31, fraction = bits & 1023;
    const double size = exponent == 0 ? std::ldexp(fraction, -24) : std::ldexp(1024 + fraction, exponent - 25);
    return bits & 0x8000 ? -size : size;
  }
};

double cubic(double distance) {  // Keys 1981 with a = -0.75
  const double x = std::abs(distance), a = -0.75;
  if (x < 1) return ((a + 2) * x - (a + 3)) * x * x + 1;
  return x < 2 ? ((a * x - 5 * a) * x + 8 * a) * x - 4 * a : 0;
}

int64_t mirrored(int64_t index, int64_t length) {
  if (length == 1) return 0;
  const int64_t period = 2 * (length - 1), folded = ((index % period) + period) % period;
  return std::min(folded, period - folded);
}

// Line `fine` of a doubling, as weights of four coarse lines.
void double_line(int64_t fine, int64_t coarse, int64_t cells[4], double shares[4]) {
  const double position = (fine + 0.5) / 2 - 0.5;
  const int64_t below = int64_t(std::floor(position));
  for (int tap = 0; tap < 4; ++tap) {
    shares[tap] = cubic(position - double(below - 1 + tap));
    cells[tap] = std::min(std::max(below - 1 + tap, int64_t(0)), coarse - 1);
  }
}

// A part of the fine map of rows x columns coarse cells; the source holds only the cells that this part reads.
template <class T, class Weights>
void check_doubling(int64_t channels, int64_t rows, int64_t columns, int64_t top, int64_t left, int64_t height,
                    int64_t width, Weights& weights, int threads) {
  const int64_t batch = 2, first_row = std::max(top / 2 - 3, int64_t(0)),
                first_column = std::max(left / 2 - 3, int64_t(0));
  const int64_t end_row = std::min((top + height - 1) / 2 + 4, rows);
  const int64_t end_column = std::min((left + width - 1) / 2 + 4, columns);
  const int layout = channels > 8 ? 1 : 0;
  Operand<T> source(batch, channels, end_row - first_row, end_column - first_column, layout);
  Operand<T> result(batch, channels, height, width, layout);
  const featup_place place{rows, columns, first_row, first_column, top, left};
  run(featup_guided_double(&source.view, &weights.view, &result.view, &place, threads));
  bool right = true;
  for (int64_t b = 0; b < batch; ++b)
    for (int64_t c = 0; c < channels; ++c) {
      const int64_t tall = height + 6, wide = width + 6;
      std::vector<double> padded(tall * wide);
      for (int64_t y = 0; y < tall; ++y)
        for (int64_t x = 0; x < wide; ++x) {
          int64_t cell_rows[4], cell_columns[4];
          double down[4], along[4];
          double_line(mirrored(top + y - 3, 2 * rows), rows, cell_rows, down);
          double_line(mirrored(left + x - 3, 2 * columns), columns, cell_columns, along);
          double value = 0;
          for (int i = 0; i < 4; ++i)
            for (int j = 0; j < 4; ++j)
              value += down[i] * along[j] *
                       double(source.at(b, c, cell_rows[i] - first_row, cell_columns[j] - first_column));
          padded[y * wide + x] = value;
        }
      for (int64_t y = 0; y < height; ++y)
        for (int64_t x = 0; x < width; ++x) {
          double value = 0;
          for (int tap = 0; tap < 49; ++tap)
            value += padded[(y + tap / 7) * wide + x + tap % 7] * double(weights.at(b, tap, y, x));
          right = right && near(result.at(b, c, y, x), value);
        }
    }
  expect(right, "guided_double", channels, height, width, 7);
}

// Whole maps, and parts that touch one, another or no edge.
template <class T>
int check_doublings(int64_t channels, int64_t rows, int64_t columns) {
  int cases = 0;
  for (int part = 0; part < 4; ++part) {
    const int64_t top = part % 2 == 0 ? 0 : rows - 1, left = part < 2 ? 0 : columns - 1;
    const int64_t bottom = part % 2 == 0 && part > 0 ? std::max(2 * rows - 1, top + 1) : 2 * rows;
    const int64_t right = part == 1 ? std::max(2 * columns - 3, left + 1) : 2 * columns;
    Operand<T> weights(2, 49, bottom - top, right - left, 0);
    check_doubling<T>(channels, rows, columns, top, left, bottom - top, right - left, weights, 1 + part % 2);
    ++cases;
    if constexpr (sizeof(T) == 4) {
      Halves halves(2, 49, bottom - top, right - left);
      check_doubling<T>(channels, rows, columns, top, left, bottom - top, right - left, halves, 2 - part % 2);
      ++cases;
    }
  }
  return cases;
}

template <class T>
void check_bilinear(int64_t channels, int64_t rows, int64_t columns, int64_t height, int64_t width, int threads) {
  const int64_t batch = 2;
  const int layout = channels > 8 ? 1 : 0;
  Operand<T> source(batch, channels, rows, columns, layout), result(batch, channels, height, width, layout);
  std::vector<int64_t> lines[2];
  std::vector<double> shares[2];
  for (int along = 0; along < 2; ++along) {
    const int64_t count = along ? width : height, length = along ? columns : rows;
    for (int64_t i = 0; i < count; ++i) {  // the last line with a share, and the first without, are among them
      lines[along].push_back(count == 1 ? length - 1 : i * (length - 1) / (count - 1));
      shares[along].push_back(double(i % 5) / 4);
    }
  }
  run(featup_bilinear(&source.view, &result.view, lines[0].data(), shares[0].data(), lines[1].data(), shares[1].data(),
                      threads));
  bool right = true;
  for (int64_t b = 0; b < batch; ++b)
    for (int64_t c = 0; c < channels; ++c)
      for (int64_t y = 0; y < height; ++y)
        for (int64_t x = 0; x < width; ++x) {
          const int64_t y0 = lines[0][y], x0 = lines[1][x], y1 = std::min(y0 + 1, rows - 1),
                        x1 = std::min(x0 + 1, columns - 1);
          const double down = shares[0][y], to_right = shares[1][x];
          const double upper =
              double(source.at(b, c, y0, x0)) * (1 - to_right) + double(source.at(b, c, y0, x1)) * to_right;
          const double lower =
              double(source.at(b, c, y1, x0)) * (1 - to_right) + double(source.at(b, c, y1, x1)) * to_right;
          right = right && near(result.at(b, c, y, x), upper * (1 - down) + lower * down);
        }
  expect(right, "bilinear", channels, height, width, 1);
}

template <class T>
void check_network(int64_t firsts, int64_t seconds, int64_t hidden, int64_t outputs, int64_t width, bool skip,
                   int threads) {
  const int64_t batch = 2, height = 3, inputs = firsts + seconds;
  Operand<T> first(batch, firsts, height, width, 0), second(batch, seconds, height, width, 0);
  Operand<T> weights1(1, 1, hidden, inputs, 0), bias1(1, 1, 1, hidden, 0);
  Operand<T> weights2(1, 1, outputs, hidden, 0), bias2(1, 1, 1, outputs, 0), result(batch, outputs, height, width, 0);
  run(featup_pixel_network(&first.view, &second.view, &weights1.view, &bias1.view, &weights2.view, &bias2.view,
                           &result.view, skip ? 1.0 : 0.0, 0.1, threads));
  bool right = true;
  for (int64_t b = 0; b < batch; ++b)
    for (int64_t y = 0; y < height; ++y)
      for (int64_t x = 0; x < width; ++x) {
        std::vector<double> units(hidden);
        for (int64_t unit = 0; unit < hidden; ++unit) {
          double sum = double(bias1.at(0, 0, 0, unit));
          for (int64_t i = 0; i < inputs; ++i)
            sum += double(weights1.at(0, 0, unit, i)) *
                   double(i < firsts ? first.at(b, i, y, x) : second.at(b, i - firsts, y, x));
          units[unit] = 0.5 * sum * std::erfc(-sum * std::sqrt(0.5));
        }
        for (int64_t output = 0; output < outputs; ++output) {
          double sum = double(bias2.at(0, 0, 0, output));
          for (int64_t unit = 0; unit < hidden; ++unit) sum += double(weights2.at(0, 0, output, unit)) * units[unit];
          right =
              right && near(result.at(b, output, y, x), 0.1 * sum + (skip ? double(first.at(b, output, y, x)) : 0.0));
        }
      }
  expect(right, "pixel_network", inputs, height, width, 1);
}

void check_rounding(int64_t taps, int64_t width, int threads) {
  const int64_t batch = 2, height = 3;
  Operand<float> weights(batch, taps, height, width, 0);
  Halves result(batch, taps, height, width);
  run(featup_round_weights(&weights.view, &result.view, threads));
  bool right = true;
  for (int64_t b = 0; b < batch; ++b)
    for (int64_t y = 0; y < height; ++y)
      for (int64_t x = 0; x < width; ++x) {
        double wanted = 0, found = 0;
        for (int64_t tap = 0; tap < taps; ++tap) {
          wanted += double(weights.at(b, tap, y, x));
          found += result.at(b, tap, y, x);
          right = right && std::abs(result.at(b, tap, y, x) - double(weights.at(b, tap, y, x))) <= 1.0 / 1024;
          // For any number of taps, the error of the sum is at most half a unit of the last tap.
          right = right && std::abs(found - wanted) <= 1.0 / 2048;
        }
      }
  expect(right, "round_weights", taps, height, width, 1);
}

void check_arithmetic() {
  double one = 0, many = 0;
  run(featup_multiply_add(1, 2, &one));
  run(featup_multiply_add(1000, 2, &many));
  expect(one > 0 && many == 1000 * one, "multiply_add", 0, 0, 0, 0);
  expect(featup_multiply_add(-1, 1, &one) != nullptr, "multiply_add", 0, 0, 0, 0);
}

// The operators of the learned upsampler besides window sums.
int check_others() {
  int cases = 0;
  for (const int64_t channels : {1, 3, 8, 9, 17, 50, 130})
    for (const int64_t columns : {1, 2, 3, 9, 17})
      for (const int64_t rows : {1, 4, 9})
        cases += check_doublings<float>(channels, rows, columns) + check_doublings<double>(channels, rows, columns);
  for (const int64_t channels : {1, 8, 9, 16, 33})
    for (const int64_t width : {1, 7, 16, 17, 33})
      for (const int64_t columns : {1, 2, 16, 17}) {
        check_bilinear<float>(channels, 3, columns, 9, width, 1 + cases % 2);
        check_bilinear<double>(channels, 1, columns, 2, width, 2 - cases % 2);
        cases += 2;
      }
  for (const int64_t width : {1, 7, 31, 32, 33, 63, 64, 65, 130})
    for (const int64_t hidden : {1, 6, 7, 32}) {
      check_network<float>(5, 0, hidden, 7, width, false, 1 + cases % 2);
      check_network<float>(7, 3, hidden, 7, width, true, 1 + cases % 2);
      check_network<double>(7, 3, hidden, 5, width, true, 2 - cases % 2);
      cases += 3;
    }
  for (const int64_t taps : {1, 9, 49})
    for (const int64_t width : {1, 3, 4, 7, 8, 15, 16, 17, 33}) {
      check_rounding(taps, width, 1 + cases % 2);
      ++cases;
    }
  check_arithmetic();
  return cases;
}

}  // namespace

int main() {
  int cases = 0;
  for (const char* set : {"baseline", "AVX2", "AVX-512"}) {
    if (featup_use_instruction_set(set) != nullptr) continue;
    for (const int k : {1, 3, 5, 7, 9})
      for (const int64_t width : {1, 7, 17, 33})
        for (const int64_t channels : {1, 3, 9, 50})
          for (int layout = 0; layout < 3; ++layout, ++cases) {
            check<float>(channels, 3, width, k, layout, 1 + cases % 2);
            check<double>(channels, 2, width, k, layout, 1 + cases % 2);
          }
    check<float>(20, 60, 5, 3, 1, 2);  // more than one band of rows
    cases += check_others() + check_cell_attention();
    std::printf("%s: done\n", featup_instruction_set());
  }
  std::printf("%d cases, %d failures\n", cases, failures);
  return failures == 0 ? 0 : 1;
}
