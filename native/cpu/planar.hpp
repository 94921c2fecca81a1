// The kernels for few channels: a vector holds neighbouring columns, and all operands are planes.
//
// A row is cut into blocks; the last one overlaps its neighbour instead of being shorter, so that every pixel is
// computed by the same instructions wherever it lies and its value does not depend on how a caller cuts an image into
// regions.

constexpr int kPlanarVectors = kManyRegisters ? 4 : 2;

// Calls body(x, count) for the blocks of a row; count is less than the block only if the whole row is shorter.
template <class Body>
inline void for_blocks(int64_t width, int64_t block, Body body) {
  for (int64_t x = 0; x < width; x += block) {
    if (x + block <= width) body(x, block);
    else if (width >= block) body(width - block, block);
    else body(0, width);
  }
}

template <class T, class S, int G>
inline void planar_sum_block(const T* source, int64_t source_plane, int64_t source_row, const S* weights,
                             int64_t tap_plane, int64_t k, T* result, int64_t result_plane, int64_t count) {
  constexpr int U = kPlanarVectors;
  Vector<T> sums[G][U] = {};
  const bool whole = count == U * kLanes<T>;
  for (int64_t dy = 0; dy < k; ++dy)
    for (int64_t dx = 0; dx < k; ++dx) {
      const S* tap = weights + (dy * k + dx) * tap_plane;
      const T* shifted = source + dy * source_row + dx;
      Vector<T> weight[U];
      if (whole) {
#pragma GCC unroll 4
        for (int u = 0; u < U; ++u) {
          weight[u] = load_as<T, S>(tap + u * kLanes<T>, kLanes<T>);
          // Each tap is a separate stream of memory, and there are more than the processor prefetches.
          if (u % (64 / kVectorBytes) == 0) __builtin_prefetch(tap + (U + u) * kLanes<T>, 0, 3);
        }
#pragma GCC unroll 4
        for (int g = 0; g < G; ++g)
#pragma GCC unroll 4
          for (int u = 0; u < U; ++u) sums[g][u] += weight[u] * load<T>(shifted + g * source_plane + u * kLanes<T>);
      } else {
        for (int u = 0; u < U; ++u) {
          const int64_t here = larger_of(count - u * kLanes<T>, 0);
          if (here == 0) break;
          weight[u] = load_as<T, S>(tap + u * kLanes<T>, here);
          for (int g = 0; g < G; ++g) {
            Vector<T> input = load_some<T>(shifted + g * source_plane + u * kLanes<T>, here);
            // Otherwise the product is not fused with the sum, and its bits differ from those above.
            keep_in_register<T>(input);
            sums[g][u] += weight[u] * input;
          }
        }
      }
    }
  for (int g = 0; g < G; ++g)
    for (int u = 0; u < U; ++u) {
      const int64_t here = smaller_of(larger_of(count - u * kLanes<T>, 0), kLanes<T>);
      if (here > 0) store_some<T>(result + g * result_plane + u * kLanes<T>, sums[g][u], here);
    }
}

template <class T, class S>
inline void planar_sum(int64_t channels, const T* source, int64_t source_plane, int64_t source_row, const S* weights,
                       int64_t tap_plane, int64_t k, T* result, int64_t result_plane, int64_t count) {
  const auto run = channels == 4   ? planar_sum_block<T, S, 4>
                   : channels == 3 ? planar_sum_block<T, S, 3>
                   : channels == 2 ? planar_sum_block<T, S, 2>
                                   : planar_sum_block<T, S, 1>;
  run(source, source_plane, source_row, weights, tap_plane, k, result, result_plane, count);
}

template <class T, class S>
void window_sum_planar(const WindowSumJob& job) {
  const int64_t channels = job.result.size[1], height = job.result.size[2], width = job.result.size[3];
  const int64_t lines = job.result.size[0] * height, k = job.kernel_size;
  const int64_t source_plane = job.source.stride[1], result_plane = job.result.stride[1];
#pragma omp parallel for num_threads(job.threads) schedule(dynamic, 4)
  for (int64_t line = 0; line < lines; ++line) {
    const int64_t b = line / height, y = line % height;
    for_blocks(width, kPlanarVectors * kLanes<T>, [&](int64_t x, int64_t count) {
      const S* weights = address<S>(job.weights, b, 0, y, x);
      for (int64_t c = 0; c < channels; c += 4) {
        const T* source = address<T>(job.source, b, c, y, x);
        T* result = const_cast<T*>(address<T>(job.result, b, c, y, x));
        planar_sum<T, S>(smaller_of(channels - c, 4), source, source_plane, job.source.stride[2], weights,
                         job.weights.stride[1], k, result, result_plane, count);
      }
    });
  }
}

// The gradient to the padded input in planes: the same sum with both operands read at the tap's distance to the left
// and above, nothing beyond the borders.
template <class T, int G, bool Inside>
inline void planar_grad_input_block(const WindowSumJob& job, int64_t b, int64_t c, int64_t y, int64_t x,
                                    int64_t count) {
  constexpr int U = kPlanarVectors;
  const int64_t k = job.kernel_size, height = job.source.size[2], width = job.source.size[3];
  Vector<T> sums[G][U] = {};
  for (int64_t dy = larger_of(y - height + 1, 0); dy <= smaller_of(k - 1, y); ++dy) {
    const T* weights = address<T>(job.weights, b, dy * k, y - dy, 0);
    const T* source = address<T>(job.source, b, c, y - dy, 0);
    for (int64_t dx = 0; dx < k; ++dx, weights += job.weights.stride[1]) {
      Vector<T> weight[U];
#pragma GCC unroll 4
      for (int u = 0; u < U; ++u) weight[u] = load_between<T>(weights, x - dx + u * kLanes<T>, width, Inside);
#pragma GCC unroll 4
      for (int g = 0; g < G; ++g)
#pragma GCC unroll 4
        for (int u = 0; u < U; ++u) {
          Vector<T> input = load_between<T>(source + g * job.source.stride[1], x - dx + u * kLanes<T>, width, Inside);
          keep_in_register<T>(input);
          sums[g][u] += weight[u] * input;
        }
    }
  }
  for (int g = 0; g < G; ++g)
    for (int u = 0; u < U; ++u) {
      const int64_t here = smaller_of(larger_of(count - u * kLanes<T>, 0), kLanes<T>);
      if (here > 0)
        store_some<T>(const_cast<T*>(address<T>(job.result, b, c + g, y, x)) + u * kLanes<T>, sums[g][u], here);
    }
}

template <class T>
void window_grad_input_planar(const WindowSumJob& job) {
  const int64_t channels = job.result.size[1], height = job.result.size[2], width = job.result.size[3];
  const int64_t lines = job.result.size[0] * height;
#pragma omp parallel for num_threads(job.threads) schedule(dynamic, 4)
  for (int64_t line = 0; line < lines; ++line) {
    const int64_t b = line / height, y = line % height;
    for_blocks(width, kPlanarVectors * kLanes<T>, [&](int64_t x, int64_t count) {
      const bool inside = x >= job.kernel_size - 1 && x + kPlanarVectors * kLanes<T> <= job.source.size[3];
      for (int64_t c = 0; c < channels; c += 4) {
        const int64_t some = smaller_of(channels - c, 4);
        const auto run = inside ? (some == 4   ? planar_grad_input_block<T, 4, true>
                                   : some == 3 ? planar_grad_input_block<T, 3, true>
                                   : some == 2 ? planar_grad_input_block<T, 2, true>
                                               : planar_grad_input_block<T, 1, true>)
                                : (some == 4   ? planar_grad_input_block<T, 4, false>
                                   : some == 3 ? planar_grad_input_block<T, 3, false>
                                   : some == 2 ? planar_grad_input_block<T, 2, false>
                                               : planar_grad_input_block<T, 1, false>);
        run(job, b, c, y, x, count);
      }
    });
  }
}

// -- weights of the range kernels ------------------------------------------------------------------------------------

constexpr int kWeightVectors = kManyRegisters ? 3 : 1;

// Products or squared distances of a block of pixels with K neighbours to the right of (dy, dx0), summed over channels.
template <class T, int K, bool Distances>
inline void planar_taps(const T* centre, const T* shifted, int64_t plane, int64_t channels, int64_t count, T* result,
                        int64_t result_pitch) {
  constexpr int U = kWeightVectors;
  Vector<T> sums[K][U] = {};
  const bool whole = count == U * kLanes<T>;
  for (int64_t c = 0; c < channels; ++c) {
#pragma GCC unroll 3
    for (int u = 0; u < U; ++u) {
      const int64_t here = whole ? kLanes<T> : larger_of(count - u * kLanes<T>, 0);
      Vector<T> pixel = load_some<T>(centre + c * plane + u * kLanes<T>, here);
      keep_in_register<T>(pixel);
#pragma GCC unroll 8
      for (int dx = 0; dx < K; ++dx) {
        const Vector<T> neighbour = load_some<T>(shifted + c * plane + dx + u * kLanes<T>, here);
        if constexpr (Distances) {
          const Vector<T> difference = neighbour - pixel;
          sums[dx][u] += difference * difference;
        } else {
          sums[dx][u] += pixel * neighbour;
        }
      }
    }
  }
#pragma GCC unroll 8
  for (int dx = 0; dx < K; ++dx)
#pragma GCC unroll 3
    for (int u = 0; u < U; ++u) store<T>(result + dx * result_pitch + u * kLanes<T>, sums[dx][u]);
}

template <class T, bool Distances>
inline void planar_tap_row(int64_t k, const T* centre, const T* shifted, int64_t plane, int64_t channels, int64_t count,
                           T* result, int64_t pitch) {
  if (k == 7) planar_taps<T, 7, Distances>(centre, shifted, plane, channels, count, result, pitch);
  else if (k == 5) planar_taps<T, 5, Distances>(centre, shifted, plane, channels, count, result, pitch);
  else if (k == 3) planar_taps<T, 3, Distances>(centre, shifted, plane, channels, count, result, pitch);
  else
    for (int64_t dx = 0; dx < k; ++dx)
      planar_taps<T, 1, Distances>(centre, shifted + dx, plane, channels, count, result + dx * pitch, pitch);
}

template <class T>
bool window_weights_planar(const WindowWeightsJob& job) {
  constexpr int64_t block = kWeightVectors * kLanes<T>;
  const int64_t k = job.kernel_size, taps = k * k, radius = k / 2;
  const int64_t channels = job.padded.size[1], height = job.result.size[2], width = job.result.size[3];
  const int64_t lines = job.result.size[0] * height, plane = job.padded.stride[1];
  int failures = 0;
#pragma omp parallel num_threads(job.threads) reduction(+ : failures)
  {
    Scratch<T> values(taps * block);
    T* const logits = values.get();
    if (logits == nullptr) ++failures;
#pragma omp for schedule(dynamic, 2)
    for (int64_t line = 0; line < lines; ++line) {
      if (logits == nullptr) continue;
      const int64_t b = line / height, y = line % height;
      for_blocks(width, block, [&](int64_t x, int64_t count) {
        const T* centre = address<T>(job.padded, b, 0, y + radius, x + radius);
        for (int64_t dy = 0; dy < k; ++dy) {
          const T* shifted = address<T>(job.padded, b, 0, y + dy, x);
          T* row = logits + dy * k * block;
          if (job.distances) planar_tap_row<T, true>(k, centre, shifted, plane, channels, count, row, block);
          else planar_tap_row<T, false>(k, centre, shifted, plane, channels, count, row, block);
        }
        for (int64_t lane = 0; lane < block; lane += kLanes<T>) {
          const int64_t here = smaller_of(count - lane, kLanes<T>);
          if (here <= 0) break;
          Vector<T> most = broadcast<T>(-HUGE_VAL), total{};
          for (int64_t tap = 0; tap < taps; ++tap) {
            T* at = logits + tap * block + lane;
            const Vector<T> value = load<T>(at) * broadcast<T>(T(job.factor)) + broadcast<T>(T(job.bias[tap]));
            store<T>(at, value);
            most = larger<T>(value, most);
          }
          for (int64_t tap = 0; tap < taps; ++tap) {
            T* at = logits + tap * block + lane;
            const Vector<T> value = exponential(load<T>(at) - most);
            store<T>(at, value);
            total += value;
          }
          const Vector<T> share = broadcast<T>(T(1)) / total;
          T* result = const_cast<T*>(address<T>(job.result, b, 0, y, x + lane));
          for (int64_t tap = 0; tap < taps; ++tap)
            store_some<T>(result + tap * job.result.stride[1], load<T>(logits + tap * block + lane) * share, here);
        }
      });
    }
  }
  return failures == 0;
}
