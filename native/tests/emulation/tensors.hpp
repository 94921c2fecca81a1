// What the checks of the CUDA kernels share: operands without slack, and how failures are counted and told.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <string>
#include <vector>

#include "featup_cuda.h"
#include "platform.h"

inline int failures = 0, checks = 0;

inline void expect(bool holds, const std::string& what) {
  ++checks;
  if (holds) return;
  ++failures;
  std::fprintf(stderr, "FAILED: %s\n", what.c_str());
}

inline double read(float value) { return value; }
inline double read(double value) { return value; }
inline double read(__half value) { return __half2float(value); }
inline double read(__nv_bfloat16 value) { return __bfloat162float(value); }
inline void write(float& at, double value) { at = float(value); }
inline void write(double& at, double value) { at = value; }
inline void write(__half& at, double value) { at = __float2half_rn(float(value)); }
inline void write(__nv_bfloat16& at, double value) { at = __float2bfloat16_rn(float(value)); }

template <class T>
struct Kind;
template <>
struct Kind<float> {
  static constexpr int dtype = FEATUP_FLOAT32;
  static constexpr double tolerance = 2e-5;
};
template <>
struct Kind<double> {
  static constexpr int dtype = FEATUP_FLOAT64;
  static constexpr double tolerance = 1e-12;
};
template <>
struct Kind<__half> {
  static constexpr int dtype = FEATUP_FLOAT16;
  static constexpr double tolerance = 2e-3;
};
template <>
struct Kind<__nv_bfloat16> {
  static constexpr int dtype = FEATUP_BFLOAT16;
  static constexpr double tolerance = 1e-2;
};

inline std::uint32_t state = 1;
inline double random_number() {
  state = state * 1664525u + 1013904223u;
  return (state >> 8) / double(1 << 23) - 1.0;
}

enum Layout { contiguous, channels_last, every_second };

// Four dimensions in memory that is exactly as long as the layout needs.
template <class T>
struct Tensor {
  std::int64_t sizes[4], strides[4];
  std::vector<T> memory;
  featup_tensor descriptor{};

  Tensor(std::int64_t a, std::int64_t b, std::int64_t c, std::int64_t d, Layout layout = contiguous)
      : sizes{a, b, c, d}, strides{b * c * d, c * d, d, 1} {
    std::int64_t count = a * b * c * d;
    if (layout == channels_last) {
      const std::int64_t changed[4] = {b * c * d, 1, b * d, b};
      std::memcpy(strides, changed, sizeof strides);
    } else if (layout == every_second) {
      for (std::int64_t& stride : strides) stride *= 2;
      count = count == 0 ? 0 : 2 * count - 1;
    }
    memory.resize(std::size_t(count));
    for (T& value : memory) write(value, std::nan(""));  // unwritten values must not be used
    descriptor.data = memory.data();
    descriptor.dtype = Kind<T>::dtype;
    std::memcpy(descriptor.size, sizes, sizeof sizes);
    std::memcpy(descriptor.stride, strides, sizeof strides);
  }
  Tensor(const Tensor&) = delete;  // the descriptor points into the memory

  const featup_tensor* described() const { return &descriptor; }

  Tensor& fill() {
    for (std::int64_t a = 0; a < sizes[0]; ++a)
      for (std::int64_t b = 0; b < sizes[1]; ++b)
        for (std::int64_t c = 0; c < sizes[2]; ++c)
          for (std::int64_t d = 0; d < sizes[3]; ++d) write(at(a, b, c, d), random_number());
    return *this;
  }

  T& at(std::int64_t a, std::int64_t b, std::int64_t c, std::int64_t d) {
    return memory[std::size_t(a * strides[0] + b * strides[1] + c * strides[2] + d * strides[3])];
  }
  double operator()(std::int64_t a, std::int64_t b, std::int64_t c, std::int64_t d) { return read(at(a, b, c, d)); }
};

struct Case {
  std::int64_t batch, channels, height, width, kernel_size;
  Layout layout;
  std::string name() const {
    static const char* layouts[] = {"contiguous", "channels last", "every second"};
    char text[128];
    std::snprintf(text, sizeof text, "B%lld C%lld %lldx%lld k%lld %s", (long long)batch, (long long)channels,
                  (long long)height, (long long)width, (long long)kernel_size, layouts[layout]);
    return text;
  }
};

template <class T>
void compare(const char* what, const Case& the, const char* error, Tensor<T>& found,
             const std::vector<double>& expected) {
  const std::string name = std::string(what) + " dtype " + std::to_string(Kind<T>::dtype) + " " + the.name();
  expect(error == nullptr, name + ": " + (error != nullptr ? error : ""));
  expect(found.memory.size() == expected.size(), name + ": size");
  double worst = 0;
  for (std::size_t index = 0; index < expected.size() && index < found.memory.size(); ++index) {
    const double difference = std::abs(read(found.memory[index]) - expected[index]) / (1.0 + std::abs(expected[index]));
    worst = difference <= worst ? worst : difference;  // a NaN stays
    if (std::isnan(difference)) break;
  }
  expect(worst <= Kind<T>::tolerance, name + ": differs by " + std::to_string(worst));
}

// The message names the argument that does not fit.
inline void names(const char* error, const char* argument) {
  const std::string text = error != nullptr ? error : "(no error)";
  expect(text.rfind(std::string(argument) + " ", 0) == 0, "names " + std::string(argument) + ": " + text);
}

// Of the attention to cells.
void check_few_cell_attentions();
void check_all_cell_attentions();
