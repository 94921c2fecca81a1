// The CPU kernels against plain loops, meant to be run under the sanitizers: small sizes around every tile, stripe and vector
// boundary, operands that end exactly where their memory does, and padding that must not be touched.
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <vector>

#include "featup_native.h"

namespace {

std::mt19937 generator(1);
int failures = 0;

template <class T>
struct Operand {
  std::vector<T> memory;
  featup_tensor view{};

  // Layouts: 0 planes, 1 channels last, 2 every second column.
  Operand(int64_t b, int64_t c, int64_t y, int64_t x, int layout) {
    const int64_t size[4] = {b, c, y, x};
    const int64_t gap = layout == 2 ? 2 : 1;
    const int64_t planes[4] = {c * y * x * gap, y * x * gap, x * gap, gap};
    const int64_t last[4] = {y * x * c, 1, x * c, c};
    int64_t extent = 1;
    for (int i = 0; i < 4; ++i) {
      view.size[i] = size[i];
      view.stride[i] = layout == 1 ? last[i] : planes[i];
      extent += (size[i] - 1) * view.stride[i];
    }
    memory.resize(b * c * y * x == 0 ? 0 : extent);  // no slack: the next number belongs to someone else
    std::uniform_real_distribution<double> numbers(-1, 1);
    for (T& value : memory) value = T(numbers(generator));
    view.data = memory.data();
    view.dtype = sizeof(T) == 8 ? FEATUP_FLOAT64 : FEATUP_FLOAT32;
  }
  T& at(int64_t b, int64_t c, int64_t y, int64_t x) {
    return memory[b * view.stride[0] + c * view.stride[1] + y * view.stride[2] + x * view.stride[3]];
  }
};

void expect(bool condition, const char* what, int64_t channels, int64_t height, int64_t width, int kernel_size) {
  if (condition) return;
  ++failures;
  std::printf("%s is wrong: %lld channels, %lld x %lld, window %d\n", what, static_cast<long long>(channels),
              static_cast<long long>(height), static_cast<long long>(width), kernel_size);
}

void run(const char* message) {
  if (message == nullptr) return;
  std::printf("refused: %s\n", message);
  std::exit(1);
}

template <class T>
bool near(T found, double expected) {
  return std::abs(double(found) - expected) <= (sizeof(T) == 8 ? 1e-11 : 1e-4) * (1 + std::abs(expected));
}

template <class T>
void check(int64_t channels, int64_t height, int64_t width, int k, int layout, int threads) {
  const int64_t batch = 2, edge = k - 1, taps = k * k;
  Operand<T> padded(batch, channels, height + edge, width + edge, layout);
  Operand<T> weights(batch, taps, height, width, (layout + 1) % 3);
  Operand<T> gradient(batch, channels, height, width, layout);
  Operand<T> sum(batch, channels, height, width, layout), spread(batch, channels, height + edge, width + edge, layout);
  Operand<T> dot(batch, taps, height, width, 0);
  run(featup_window_sum(&padded.view, &weights.view, &sum.view, k, threads));
  run(featup_window_spread(&gradient.view, &weights.view, &spread.view, k, threads));
  run(featup_window_dot(&padded.view, &gradient.view, &dot.view, k, threads));
  std::vector<double> to_padded(batch * channels * (height + edge) * (width + edge), 0.0);
  bool sums = true, dots = true, spreads = true, softmax = true;
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
            logits[t] += 0.7 * double(keys.at(b, c, y + t / k, x + t % k)) * double(keys.at(b, c, y + k / 2, x + k / 2));
          }
          dots = dots && near(dot.at(b, t, y, x), product);
          total += std::exp(logits[t]);
        }
        for (int64_t t = 0; t < taps; ++t) softmax = softmax && near(shares.at(b, t, y, x), std::exp(logits[t]) / total);
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
          spreads = spreads && near(spread.at(b, c, y, x),
                                    to_padded[((b * channels + c) * (height + edge) + y) * (width + edge) + x]);
  expect(sums, "window_sum", channels, height, width, k);
  expect(spreads, "window_spread", channels, height, width, k);
  expect(dots, "window_dot", channels, height, width, k);
  expect(softmax, "range_softmax", channels, height, width, k);
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
    std::printf("%s: done\n", featup_instruction_set());
  }
  std::printf("%d cases, %d failures\n", cases, failures);
  return failures == 0 ? 0 : 1;
}
