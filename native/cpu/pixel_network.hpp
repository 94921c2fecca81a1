// A small network of two layers at every pixel: result = skip * first + scale * (second layer(GELU(first
// layer(input)))). A vector holds neighbouring columns. Both layers are computed for a block of pixels before the next
// block, so that hidden values stay in the nearest cache. The channels of two maps form the input, so that callers need
// not concatenate them.

constexpr int kNetworkVectors = kManyRegisters ? 4 : 2;
constexpr int kNetworkUnits = kManyRegisters ? 6 : 4;

// x times the Gaussian distribution function. erf as in Abramowitz and Stegun 7.1.26, within 1.5e-7.
inline Vector<float> gelu(Vector<float> x) {
  typedef Vector<float> V;
  const V magnitude = larger<float>(x, -x) * 0.70710678118654752f;
  const V t = broadcast(1.0f) / (magnitude * 0.3275911f + 1.0f);
  V series = t * 1.061405429f - 1.453152027f;
  series = series * t + 1.421413741f;
  series = series * t - 0.284496736f;
  series = series * t + 0.254829592f;
  const V tail = series * t * exponential(-(magnitude * magnitude)) * 0.5f;  // of the distribution, beyond |x|
  return x * (x > V{} ? broadcast(1.0f) - tail : tail);
}
inline Vector<double> gelu(Vector<double> x) {
  for (int lane = 0; lane < kLanes<double>; ++lane) x[lane] = 0.5 * x[lane] * ::erfc(-x[lane] * 0.70710678118654752440);
  return x;
}

// sums[unit][u] = bias + weights[unit * inputs + i] * from[i * pitch + u * lanes] over the inputs, for Units units.
template <class T, int Units>
inline void network_units(const T* weights, const T* bias, int64_t inputs, const T* from, int64_t pitch,
                          Vector<T> (*sums)[kNetworkVectors]) {
  constexpr int U = kNetworkVectors;
  Vector<T> totals[Units][U];
#pragma GCC unroll 6
  for (int unit = 0; unit < Units; ++unit)
#pragma GCC unroll 4
    for (int u = 0; u < U; ++u) totals[unit][u] = broadcast<T>(bias[unit]);
  for (int64_t i = 0; i < inputs; ++i) {
    Vector<T> input[U];
#pragma GCC unroll 4
    for (int u = 0; u < U; ++u) {
      input[u] = load<T>(from + i * pitch + u * kLanes<T>);
      keep_in_register<T>(input[u]);
    }
#pragma GCC unroll 6
    for (int unit = 0; unit < Units; ++unit) {
      Vector<T> weight = broadcast<T>(weights[unit * inputs + i]);
      keep_in_register<T>(weight);
#pragma GCC unroll 4
      for (int u = 0; u < U; ++u) totals[unit][u] += weight * input[u];
    }
  }
#pragma GCC unroll 6
  for (int unit = 0; unit < Units; ++unit)
#pragma GCC unroll 4
    for (int u = 0; u < U; ++u) sums[unit][u] = totals[unit][u];
}

// Calls done(unit, sums of its vectors) for every unit of a layer.
template <class T, class Done>
inline void network_layer(const T* weights, const T* bias, int64_t inputs, int64_t units, const T* from, int64_t pitch,
                          Done done) {
  Vector<T> sums[kNetworkUnits][kNetworkVectors];
  int64_t unit = 0;
  for (; unit + kNetworkUnits <= units; unit += kNetworkUnits) {
    network_units<T, kNetworkUnits>(weights + unit * inputs, bias + unit, inputs, from, pitch, sums);
    for (int i = 0; i < kNetworkUnits; ++i) done(unit + i, sums[i]);
  }
  for (; unit < units; ++unit) {
    network_units<T, 1>(weights + unit * inputs, bias + unit, inputs, from, pitch, sums);
    done(unit, sums[0]);
  }
}

template <class T>
bool pixel_network_of(const PixelNetworkJob& job) {
  constexpr int U = kNetworkVectors;
  constexpr int64_t block = U * kLanes<T>;
  const int64_t firsts = job.first.size[1], seconds = job.second.size[1], inputs = firsts + seconds;
  const int64_t outputs = job.result.size[1], height = job.result.size[2], width = job.result.size[3];
  const int64_t lines = job.result.size[0] * height;
  const T *weights1 = static_cast<const T*>(job.weights1), *bias1 = static_cast<const T*>(job.bias1);
  const T *weights2 = static_cast<const T*>(job.weights2), *bias2 = static_cast<const T*>(job.bias2);
  const Vector<T> scale = broadcast<T>(T(job.scale)), skip = broadcast<T>(T(job.skip));
  int failures = 0;
#pragma omp parallel num_threads(job.threads) reduction(+ : failures)
  {
    Scratch<T> input_memory(inputs * block), hidden_memory(job.hidden * block);
    T *const input = input_memory.get(), *const hidden = hidden_memory.get();
    const bool ready = input && hidden;
    if (!ready) ++failures;
#pragma omp for schedule(dynamic, 2)
    for (int64_t line = 0; line < lines; ++line) {
      if (!ready) continue;
      const int64_t b = line / height, y = line % height;
      for_blocks(width, block, [&](int64_t x, int64_t count) {
        for (int64_t i = 0; i < inputs; ++i) {
          const T* from = i < firsts ? address<T>(job.first, b, i, y, x) : address<T>(job.second, b, i - firsts, y, x);
          for (int u = 0; u < U; ++u)
            store<T>(input + i * block + u * kLanes<T>,
                     load_some<T>(from + u * kLanes<T>, larger_of(count - u * kLanes<T>, 0)));
        }
        network_layer<T>(weights1, bias1, inputs, job.hidden, input, block, [&](int64_t unit, const Vector<T>* sums) {
          for (int u = 0; u < U; ++u) store<T>(hidden + unit * block + u * kLanes<T>, gelu(sums[u]));
        });
        network_layer<T>(weights2, bias2, job.hidden, outputs, hidden, block, [&](int64_t unit, const Vector<T>* sums) {
          T* to = const_cast<T*>(address<T>(job.result, b, unit, y, x));
          for (int u = 0; u < U; ++u) {
            Vector<T> value = sums[u] * scale;
            if (job.skip != 0) value += load<T>(input + unit * block + u * kLanes<T>) * skip;
            store_some<T>(to + u * kLanes<T>, value, larger_of(count - u * kLanes<T>, 0));
          }
        });
      });
    }
  }
  return failures == 0;
}
