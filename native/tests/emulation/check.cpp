// Runs every kernel under the emulation and compares it with loops that follow the definition.
//
//   check           all cases
//   check few       some of them, for every kernel size and operator in float32
//   check FAULT     one case with a mistake planted in the kernels (race, shared, global, divergent), which must not
//   pass
//
// Ends with 0 if all agree, 1 if not.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <string>
#include <type_traits>
#include <vector>

#include "featup_cuda.h"
#include "tensors.hpp"

namespace {

template <class T>
void check_window_sum(const Case& the) {
  const std::int64_t k = the.kernel_size, taps = k * k, edge = k - 1;
  const std::int64_t b = the.batch, c = the.channels, h = the.height, w = the.width;
  Tensor<T> padded(b, c, h + edge, w + edge, the.layout), weights(b, taps, h, w, the.layout),
      grad(b, c, h, w, the.layout);
  padded.fill();
  weights.fill();
  grad.fill();
  std::vector<double> sum(std::size_t(b * c * h * w)), to_input(std::size_t(b * c * (h + edge) * (w + edge))),
      to_weights(std::size_t(b * taps * h * w));
  for (std::int64_t n = 0; n < b; ++n)
    for (std::int64_t p = 0; p < c; ++p)
      for (std::int64_t y = 0; y < h; ++y)
        for (std::int64_t x = 0; x < w; ++x)
          for (std::int64_t tap = 0; tap < taps; ++tap) {
            const std::int64_t iy = y + tap / k, ix = x + tap % k;
            sum[std::size_t(((n * c + p) * h + y) * w + x)] += padded(n, p, iy, ix) * weights(n, tap, y, x);
            to_input[std::size_t(((n * c + p) * (h + edge) + iy) * (w + edge) + ix)] +=
                grad(n, p, y, x) * weights(n, tap, y, x);
            to_weights[std::size_t(((n * taps + tap) * h + y) * w + x)] += grad(n, p, y, x) * padded(n, p, iy, ix);
          }
  Tensor<T> output(b, c, h, w), grad_input(b, c, h + edge, w + edge), grad_weights(b, taps, h, w);
  const int window = int(k);
  compare("window_sum", the,
          featup_cuda_window_sum(padded.described(), weights.described(), output.described(), window, nullptr), output,
          sum);
  compare(
      "window_sum_grad_input", the,
      featup_cuda_window_sum_grad_input(grad.described(), weights.described(), grad_input.described(), window, nullptr),
      grad_input, to_input);
  compare("window_sum_grad_weights", the,
          featup_cuda_window_sum_grad_weights(padded.described(), grad.described(), grad_weights.described(), window,
                                              nullptr),
          grad_weights, to_weights);
}

template <class T>
void check_weights(const Case& the) {
  const std::int64_t k = the.kernel_size, taps = k * k, edge = k - 1, radius = k / 2;
  const std::int64_t b = the.batch, c = the.channels, h = the.height, w = the.width;
  const double temperature = 1.7, sigma_spatial = 0.8, sigma_range = 0.6;
  Tensor<T> padded(b, c, h + edge, w + edge, the.layout);
  padded.fill();
  std::vector<double> softmax(std::size_t(b * taps * h * w)), bilateral(softmax.size()), biased(softmax.size());
  using Total = std::conditional_t<std::is_same_v<T, double>, double, float>;
  std::vector<Total> bias(static_cast<std::size_t>(taps));
  for (Total& value : bias) value = Total(random_number());
  for (std::int64_t n = 0; n < b; ++n)
    for (std::int64_t y = 0; y < h; ++y)
      for (std::int64_t x = 0; x < w; ++x) {
        std::vector<double> logit(static_cast<std::size_t>(taps)), weight(static_cast<std::size_t>(taps));
        double most = -INFINITY, total_softmax = 0, total_bilateral = 0, total_biased = 0;
        for (std::int64_t tap = 0; tap < taps; ++tap) {
          double product = 0, distance = 0;
          for (std::int64_t p = 0; p < c; ++p) {
            const double middle = padded(n, p, y + radius, x + radius), value = padded(n, p, y + tap / k, x + tap % k);
            product += middle * value;
            distance += (middle - value) * (middle - value);
          }
          const double dy = k > 1 ? -1 + 2.0 * double(tap / k) / double(edge) : 0;
          const double dx = k > 1 ? -1 + 2.0 * double(tap % k) / double(edge) : 0;
          logit[std::size_t(tap)] = temperature * product;
          most = std::max(most, logit[std::size_t(tap)]);
          weight[std::size_t(tap)] = std::exp(-(dy * dy + dx * dx) / (2 * sigma_spatial * sigma_spatial)) *
                                     std::exp(-distance / (2 * sigma_range * sigma_range));
        }
        for (std::int64_t tap = 0; tap < taps; ++tap) {
          total_softmax += logit[std::size_t(tap)] = std::exp(logit[std::size_t(tap)] - most);
          total_biased += logit[std::size_t(tap)] * std::exp(double(bias[std::size_t(tap)]));
          total_bilateral += weight[std::size_t(tap)];
        }
        for (std::int64_t tap = 0; tap < taps; ++tap) {
          const auto index = std::size_t(((n * taps + tap) * h + y) * w + x);
          softmax[index] = logit[std::size_t(tap)] / total_softmax;
          biased[index] = logit[std::size_t(tap)] * std::exp(double(bias[std::size_t(tap)])) / total_biased;
          bilateral[index] = weight[std::size_t(tap)] / total_bilateral;
        }
      }
  Tensor<T> output(b, taps, h, w), again(b, taps, h, w), classical(b, taps, h, w);
  const int window = int(k);
  compare(
      "range_softmax", the,
      featup_cuda_range_softmax(padded.described(), nullptr, temperature, nullptr, output.described(), window, nullptr),
      output, softmax);
  const Total on_device(temperature);
  compare("range_softmax, temperature and bias on the device", the,
          featup_cuda_range_softmax(padded.described(), &on_device, std::nan(""), bias.data(), again.described(),
                                    window, nullptr),
          again, biased);
  compare("bilateral_weights", the,
          featup_cuda_bilateral_weights(padded.described(), sigma_spatial, sigma_range, classical.described(), window,
                                        nullptr),
          classical, bilateral);
}

// One line of the doubled map: the first of its four coarse cells, and Keys' weights of them.
struct Cubic {
  std::int64_t first;
  double weights[4];
  explicit Cubic(std::int64_t index) {
    const double a = -0.75, at = (double(index) + 0.5) / 2 - 0.5, part = at - std::floor(at);
    first = std::int64_t(std::floor(at)) - 1;
    for (int cell = 0; cell < 4; ++cell) {
      const double x = std::abs(part - (cell - 1));
      weights[cell] = x <= 1 ? ((a + 2) * x - (a + 3)) * x * x + 1 : ((a * x - 5 * a) * x + 8 * a) * x - 4 * a;
    }
  }
};

std::int64_t clamped(std::int64_t index, std::int64_t length) {
  return std::min(std::max<std::int64_t>(index, 0), length - 1);
}

std::int64_t reflected(std::int64_t index, std::int64_t length) {
  while (index < 0 || index >= length) index = index < 0 ? -index : 2 * (length - 1) - index;
  return index;
}

// The part of the fine map that begins at (top, left); a height of 0 stands for all of it.
template <class T>
void check_guided_double(const Case& coarse, std::int64_t top = 0, std::int64_t left = 0, std::int64_t height = 0,
                         std::int64_t width = 0) {
  const std::int64_t b = coarse.batch, c = coarse.channels, rows = coarse.height, columns = coarse.width;
  const bool whole = height == 0;
  const std::int64_t h = whole ? 2 * rows : height, w = whole ? 2 * columns : width;
  Tensor<T> map(b, c, rows, columns), weights(b, 49, h, w, coarse.layout), output(b, c, h, w);
  map.fill();
  weights.fill();
  const featup_place place{rows,
                           columns,
                           whole ? 0 : std::max<std::int64_t>(top / 2 - 3, 0),
                           whole ? 0 : std::max<std::int64_t>(left / 2 - 3, 0),
                           top,
                           left};
  const std::int64_t bottom = whole ? rows : std::min(rows, (top + h - 1) / 2 + 4);
  const std::int64_t right = whole ? columns : std::min(columns, (left + w - 1) / 2 + 4);
  Tensor<T> source(b, c, bottom - place.source_top, right - place.source_left, coarse.layout);
  std::vector<double> expected(std::size_t(b * c * h * w)), doubled(std::size_t(4 * rows * columns));
  for (std::int64_t n = 0; n < b; ++n)
    for (std::int64_t p = 0; p < c; ++p) {
      for (std::int64_t y = 0; y < source.sizes[2]; ++y)
        for (std::int64_t x = 0; x < source.sizes[3]; ++x)
          source.at(n, p, y, x) = map.at(n, p, y + place.source_top, x + place.source_left);
      for (std::int64_t y = 0; y < 2 * rows; ++y)
        for (std::int64_t x = 0; x < 2 * columns; ++x) {
          const Cubic down(y), across(x);
          double& value = doubled[std::size_t(y * 2 * columns + x)] = 0;
          for (int i = 0; i < 4; ++i)
            for (int j = 0; j < 4; ++j)
              value += down.weights[i] * across.weights[j] *
                       map(n, p, clamped(down.first + i, rows), clamped(across.first + j, columns));
        }
      for (std::int64_t y = 0; y < h; ++y)
        for (std::int64_t x = 0; x < w; ++x)
          for (std::int64_t tap = 0; tap < 49; ++tap) {
            const std::int64_t from_y = reflected(top + y + tap / 7 - 3, 2 * rows);
            const std::int64_t from_x = reflected(left + x + tap % 7 - 3, 2 * columns);
            expected[std::size_t(((n * c + p) * h + y) * w + x)] +=
                doubled[std::size_t(from_y * 2 * columns + from_x)] * weights(n, tap, y, x);
          }
    }
  const char* error =
      featup_cuda_guided_double(source.described(), weights.described(), output.described(), &place, nullptr);
  const std::string what =
      whole ? "guided_double" : "guided_double from " + std::to_string(top) + ", " + std::to_string(left);
  compare(what.c_str(), coarse, error, output, expected);
}

void check_all_guided_doubles() {
  // Every size at which the borders meet, and more than a tile each way.
  for (std::int64_t rows = 1; rows < 6; ++rows)
    for (std::int64_t columns = 1; columns < 6; ++columns)
      check_guided_double<float>({1, 1, rows, columns, 7, contiguous});
  check_guided_double<float>({2, 9, 7, 34, 7, channels_last});
  check_guided_double<float>({1, 70, 3, 4, 7, every_second});
  check_guided_double<double>({2, 9, 5, 35, 7, channels_last});
  check_guided_double<double>({1, 2, 1, 2, 7, contiguous});
  check_guided_double<__half>({1, 3, 5, 6, 7, contiguous});
  check_guided_double<__nv_bfloat16>({1, 3, 4, 7, 7, every_second});
  // Parts with any begin and end.
  for (std::int64_t top = 0; top < 4; ++top)
    check_guided_double<float>({1, 2, 9, 40, 7, channels_last}, top, 3 + top, 9, 66 + top);
  check_guided_double<float>({2, 2, 20, 30, 7, contiguous}, 17, 21, 4, 6);
  check_guided_double<float>({1, 2, 20, 30, 7, contiguous}, 35, 50, 5, 10);
  check_guided_double<double>({1, 2, 12, 13, 7, every_second}, 11, 9, 3, 5);
  check_guided_double<__half>({1, 2, 12, 13, 7, contiguous}, 12, 8, 4, 6);
  check_guided_double<float>({0, 2, 3, 4, 7, contiguous});
  check_guided_double<float>({1, 0, 3, 4, 7, contiguous});
}

template <class T>
void check_all(const Case& the) {
  check_window_sum<T>(the);
  check_weights<T>(the);
}

void check_large_logits() {
  const std::int64_t k = 7, h = 2, w = 3;
  Tensor<float> keys(1, 2, h + 6, w + 6), output(1, 49, h, w);
  keys.fill();
  for (float& value : keys.memory) value *= 100;
  const char* error =
      featup_cuda_range_softmax(keys.described(), nullptr, 100.0, nullptr, output.described(), int(k), nullptr);
  expect(error == nullptr, "large logits: no error");
  for (std::int64_t y = 0; y < h; ++y)
    for (std::int64_t x = 0; x < w; ++x) {
      double total = 0;
      for (std::int64_t tap = 0; tap < 49; ++tap) total += output(0, tap, y, x);
      expect(std::abs(total - 1) < 1e-5, "large logits: the weights sum to one");
    }
}

void check_messages() {
  const Tensor<float> padded(1, 1, 3, 3), weights(1, 9, 1, 1), output(1, 1, 1, 1), taps(1, 9, 1, 1), coarse(1, 1, 2, 2);
  const Tensor<double> exact(1, 9, 1, 1);
  const Tensor<float> wide(1, 1, 1, 2, every_second), wider(1, 1, 3, 4), many(1, 9, 1, 2);
  const auto changed = [](const featup_tensor* tensor, int dimension, std::int64_t size, std::int64_t stride) {
    featup_tensor other = *tensor;
    other.size[dimension] = size;
    other.stride[dimension] = stride;
    return other;
  };
  const auto sum = [&](const featup_tensor* input, const featup_tensor* by, const featup_tensor* to, int k) {
    return featup_cuda_window_sum(input, by, to, k, nullptr);
  };
  const featup_tensor *in = padded.described(), *by = weights.described(), *to = output.described();
  expect(sum(in, by, to, 3) == nullptr, "a call that fits");
  names(sum(nullptr, by, to, 3), "padded");
  names(sum(in, nullptr, to, 3), "weights");
  names(sum(in, by, nullptr, 3), "output");
  names(sum(in, by, to, 4), "kernel_size");
  names(sum(in, by, to, -3), "kernel_size");
  names(sum(in, by, to, 257), "kernel_size");
  names(sum(in, by, to, 5), "weights");
  names(sum(in, exact.described(), to, 3), "weights");
  names(sum(wider.described(), many.described(), wide.described(), 3), "output");
  const featup_tensor negative_stride = changed(in, 2, 3, -1), negative_size = changed(in, 2, -3, 3);
  names(sum(&negative_stride, by, to, 3), "padded");
  names(sum(&negative_size, by, to, 3), "padded");
  featup_tensor unknown = *in, without_memory = *in;
  unknown.dtype = 4;
  without_memory.data = nullptr;
  names(sum(&unknown, by, to, 3), "padded");
  names(sum(&without_memory, by, to, 3), "padded");
  const std::int64_t huge = std::int64_t(1) << 40, large = std::int64_t(1) << 30;
  const featup_tensor huge_input = changed(in, 1, huge, 0), huge_output = changed(to, 1, huge, 0);
  names(sum(&huge_input, by, &huge_output, 3), "padded");
  featup_tensor large_input = changed(in, 1, large, 0), large_output = changed(to, 1, large, 0), large_weights = *by;
  large_input.size[0] = large_output.size[0] = large_weights.size[0] = large;
  names(sum(&large_input, &large_weights, &large_output, 3), "padded");
  names(featup_cuda_bilateral_weights(in, 0, 1, taps.described(), 3, nullptr), "sigma_spatial");
  names(featup_cuda_bilateral_weights(in, 1, NAN, taps.described(), 3, nullptr), "sigma_range");
  names(featup_cuda_range_softmax(nullptr, nullptr, 1, nullptr, taps.described(), 3, nullptr), "keys");
  names(featup_cuda_range_softmax(to, nullptr, 1, nullptr, taps.described(), 3, nullptr), "keys");
  names(featup_cuda_window_sum_grad_input(nullptr, by, in, 3, nullptr), "grad");
  names(featup_cuda_window_sum_grad_weights(nullptr, to, by, 3, nullptr), "padded");
  const auto twice = [&](const featup_place* place, std::int64_t height, std::int64_t width) {
    const Tensor<float> window(1, 49, height, width), fine(1, 1, height, width);
    return featup_cuda_guided_double(coarse.described(), window.described(), fine.described(), place, nullptr);
  };
  const featup_place whole{2, 2, 0, 0, 0, 0}, lower{9, 2, 7, 0, 16, 0}, outside{4, 2, 3, 0, 0, 0},
      beyond{2, 2, 0, 0, 3, 0}, none{-1, 2, 0, 0, 0, 0}, far{30, 2, 9, 0, 0, 0};
  expect(twice(&whole, 4, 4) == nullptr, "a doubling that fits");
  names(twice(nullptr, 4, 4), "place");
  names(twice(&whole, 4, 5), "output");
  names(twice(&lower, 2, 4), "source");
  names(twice(&outside, 2, 4), "source");
  names(twice(&beyond, 2, 4), "output");
  names(twice(&none, 2, 4), "source");
  names(twice(&far, 2, 4), "source");
}

// The emulation itself: dynamic shared memory is there, and is new for each block.
void reverse_in_blocks(float* values, int* stale) {
  CUDA_EMULATION_DYNAMIC_SHARED(float, kept);
  if (!std::isnan(kept[threadIdx.x])) *stale = 1;
  kept[threadIdx.x] = values[blockIdx.x * blockDim.x + threadIdx.x];
  __syncthreads();
  values[blockIdx.x * blockDim.x + threadIdx.x] = kept[blockDim.x - 1 - threadIdx.x];
}

void check_emulation() {
  std::vector<float> values(3 * 16);
  for (std::size_t index = 0; index < values.size(); ++index) values[index] = float(index);
  int stale = 0;
  cuda_emulation::launch(reverse_in_blocks, dim3(3), dim3(16), 16 * sizeof(float), values.data(), &stale);
  for (std::size_t index = 0; index < values.size(); ++index)
    expect(values[index] == float(index / 16 * 16 + 15 - index % 16), "dynamic shared memory");
  expect(stale == 0, "shared memory is new for each block");
}

int planted(const std::string& name) {
  using featup::Fault;
  const struct {
    const char* name;
    Fault fault;
  } known[] = {{"race", Fault::race},
               {"shared", Fault::shared_overflow},
               {"global", Fault::global_overflow},
               {"divergent", Fault::divergent_barrier}};
  for (const auto& each : known) {
    if (name != each.name) continue;
    featup::planted_fault = each.fault;
    check_window_sum<float>({1, 8, 8, 32, 7, contiguous});
    return failures != 0;
  }
  std::fprintf(stderr, "unknown fault %s; race, shared, global or divergent\n", name.c_str());
  return 2;
}

int finish() {
  std::printf("%d checks, %d failures\n", checks, failures);
  return failures == 0 ? 0 : 1;
}

}  // namespace

int main(int count, char** arguments) {
  if (count > 1 && std::strcmp(arguments[1], "few") == 0) {
    for (const std::int64_t k : {3, 5, 7, 9}) check_all<float>({1, 9, 9, 34, k, k == 5 ? channels_last : contiguous});
    check_guided_double<float>({1, 9, 5, 34, 7, channels_last});
    check_guided_double<float>({1, 9, 9, 40, 7, contiguous}, 3, 5, 9, 67);
    check_guided_double<double>({1, 2, 3, 4, 7, contiguous});
    check_few_cell_attentions();
    check_emulation();
    return finish();
  }
  if (count > 1) return planted(arguments[1]);
  // One pixel, smaller than a tile, more than a tile each way and not a multiple of it, several stages of channels.
  for (const std::int64_t k : {3, 5, 7}) {
    check_all<float>({1, 1, 1, 1, k, contiguous});
    check_all<float>({2, 3, 5, 7, k, channels_last});
    check_all<float>({1, 9, 11, 35, k, contiguous});
    check_all<float>({2, 8, 4, 33, k, every_second});
    check_all<double>({2, 9, 9, 34, k, channels_last});
    check_all<__half>({1, 3, 6, 33, k, contiguous});
    check_all<__nv_bfloat16>({1, 3, 6, 33, k, channels_last});
  }
  check_all<float>({1, 17, 18, 66, 7, channels_last});
  check_all<double>({1, 2, 17, 33, 7, contiguous});
  for (const std::int64_t k : {1, 9}) {
    check_all<float>({2, 9, 3, 13, k, contiguous});
    check_all<double>({1, 3, 5, 30, k, every_second});
    check_all<__half>({1, 2, 2, 3, k, contiguous});
  }
  // More channels than one block computes.
  check_window_sum<float>({1, 70, 2, 3, 3, contiguous});
  // Each dimension empty.
  for (const std::int64_t k : {1, 7}) {
    check_all<float>({0, 2, 3, 4, k, contiguous});
    check_all<float>({1, 0, 3, 4, k, contiguous});
    check_all<float>({1, 2, 0, 4, k, contiguous});
    check_all<float>({1, 2, 3, 0, k, contiguous});
  }
  check_all_guided_doubles();
  check_all_cell_attentions();
  check_large_logits();
  check_messages();
  check_emulation();
  return finish();
}
