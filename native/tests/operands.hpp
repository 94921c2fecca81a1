// What the checks of the CPU kernels share: operands without slack, and how a failure is counted and told.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <vector>

#include "featup_native.h"

inline std::mt19937 generator(1);
inline int failures = 0;

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
    memory.resize(b * c * y * x == 0 ? 0 : extent);  // no slack, so that the sanitizer sees an access beyond the end
    std::uniform_real_distribution<double> numbers(-1, 1);
    for (T& value : memory) value = T(numbers(generator));
    view.data = memory.data();
    view.dtype = sizeof(T) == 8 ? FEATUP_FLOAT64 : FEATUP_FLOAT32;
  }
  T& at(int64_t b, int64_t c, int64_t y, int64_t x) {
    return memory[b * view.stride[0] + c * view.stride[1] + y * view.stride[2] + x * view.stride[3]];
  }
};

inline void expect(bool condition, const char* what, int64_t channels, int64_t height, int64_t width, int kernel_size) {
  if (condition) return;
  ++failures;
  std::printf("%s is wrong: %lld channels, %lld x %lld, window %d\n", what, static_cast<long long>(channels),
              static_cast<long long>(height), static_cast<long long>(width), kernel_size);
}

inline void run(const char* message) {
  if (message == nullptr) return;
  std::printf("refused: %s\n", message);
  std::exit(1);
}

template <class T>
bool near(T found, double expected) {
  return std::abs(double(found) - expected) <= (sizeof(T) == 8 ? 1e-11 : 1e-4) * (1 + std::abs(expected));
}

// Of the attention to cells, with the instruction set that is in use; returns the number of cases.
int check_cell_attention();
