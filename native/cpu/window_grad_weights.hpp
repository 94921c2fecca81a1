// The gradient to the weights: for each pixel and tap the product of two vectors of channels, summed along the vectors.
//
// Stripes and rings as in window_sum.hpp, but with many channels in the ring at once. The lanes of a tile's sums are
// added up once per row of taps and block of channels, because that costs a few instructions for each sum.

constexpr int kGradWeightsPixels = kManyRegisters ? 4 : 2;
constexpr int64_t kGradWeightsChannelBytes = 1536;

template <class T, int Count>
inline void add_up(Vector<T>* sums, T* totals) {
  constexpr int lanes = kLanes<T>;
#pragma GCC unroll 8
  for (int first = 0; first < Count; first += lanes) {
    Vector<T> group[lanes];
#pragma GCC unroll 16
    for (int i = 0; i < lanes; ++i) group[i] = first + i < Count ? sums[first + i] : Vector<T>{};
    store<T>(totals + first, add_lanes<T>(group));
  }
}

// Adds to result[pixel * result_pitch + dx] the products of one row of taps.
template <class T, int K>
inline void dot_tile(const T* row, const T* centre, int64_t pitch, T* result, int64_t result_pitch) {
  constexpr int P = kGradWeightsPixels;
  Vector<T> sums[P * K] = {};
  for (int64_t c = 0; c < pitch; c += kLanes<T>) {
    Vector<T> pixels[P];
#pragma GCC unroll 4
    for (int p = 0; p < P; ++p) pixels[p] = load<T>(centre + p * pitch + c);
#pragma GCC unroll 20
    for (int column = 0; column < P + K - 1; ++column) {
      Vector<T> neighbour = load<T>(row + column * pitch + c);
      keep_in_register<T>(neighbour);
#pragma GCC unroll 4
      for (int p = 0; p < P; ++p) {
        const int dx = column - p;
        if (dx >= 0 && dx < K) sums[p * K + dx] += pixels[p] * neighbour;
      }
    }
  }
  T totals[P * K + kLanes<T>];
  add_up<T, P * K>(sums, totals);
  for (int p = 0; p < P; ++p)
    for (int dx = 0; dx < K; ++dx) result[p * result_pitch + dx] += totals[p * K + dx];
}

template <class T>
inline void dot_any(const T* row, const T* centre, int64_t pitch, int64_t k, T* result, int64_t result_pitch) {
  for (int p = 0; p < kGradWeightsPixels; ++p)
    for (int64_t dx = 0; dx < k; ++dx) {
      Vector<T> sum{};
      for (int64_t c = 0; c < pitch; c += kLanes<T>)
        sum += load<T>(centre + p * pitch + c) * load<T>(row + (p + dx) * pitch + c);
      T total = 0;
      for (int lane = 0; lane < kLanes<T>; ++lane) total += sum[lane];
      result[p * result_pitch + dx] += total;
    }
}

template <class T, int K>
bool window_grad_weights_many(const WindowGradWeightsJob& job) {
  const int64_t k = job.kernel_size, taps = k * k, taps_pitch = rounded_up(taps, kLanes<T>);
  const int64_t batch = job.centre.size[0], channels = job.centre.size[1];
  const int64_t height = job.centre.size[2], width = job.centre.size[3];
  const int64_t bands = (height + kBand - 1) / kBand, band_rows = (height + bands - 1) / bands;
  const int64_t stripes = (width + kStripe - 1) / kStripe;
  const int64_t columns_most = rounded_up(smaller_of(width, kStripe), kGradWeightsPixels);
  const int64_t block = smaller_of(kGradWeightsChannelBytes / int64_t(sizeof(T)), rounded_up(channels, kLanes<T>));
  const int64_t ring_row = (columns_most + k - 1) * block;
  const ReadRow<T> read_padded = Formats<T>::reader(job.padded.dtype),
                   read_centre = Formats<T>::reader(job.centre.dtype);
  const WriteRow<T> write = Formats<T>::writer(job.result.dtype);
  const int64_t tasks = batch * bands * stripes;
  int failures = 0;

#pragma omp parallel num_threads(job.threads) reduction(+ : failures)
  {
    Scratch<T> sums(band_rows * columns_most * taps_pitch), ring(k * ring_row), centre(columns_most * block);
    const bool ready = sums.get() && ring.get() && centre.get();
    if (!ready) ++failures;
#pragma omp for schedule(dynamic, 1)
    for (int64_t task = 0; task < tasks; ++task) {
      if (!ready) continue;
      const int64_t b = task / (bands * stripes), x0 = task % stripes * kStripe;
      const int64_t top = task / stripes % bands * band_rows, bottom = smaller_of(top + band_rows, height);
      const int64_t columns = smaller_of(width - x0, kStripe), padded_columns = rounded_up(columns, kGradWeightsPixels);
      memset(sums.get(), 0, size_t(band_rows * columns_most * taps_pitch) * sizeof(T));
      for (int64_t c0 = 0; c0 < channels; c0 += block) {
        const int64_t count = smaller_of(channels - c0, block), pitch = rounded_up(count, kLanes<T>);
        for (int64_t row = top; row < bottom + k - 1; ++row) {
          read_padded(job.padded, b, c0, count, row, x0, padded_columns + k - 1, ring.get() + row % k * ring_row,
                      pitch);
          const int64_t y = row - (k - 1);
          if (y < top) continue;
          read_centre(job.centre, b, c0, count, y, x0, padded_columns, centre.get(), pitch);
          for (int64_t dy = 0; dy < k; ++dy) {
            const T* ring_line = ring.get() + (y + dy) % k * ring_row;
            T* row_sums = sums.get() + (y - top) * columns_most * taps_pitch + dy * k;
            for (int64_t x = 0; x < padded_columns; x += kGradWeightsPixels) {
              const T *line = ring_line + x * pitch, *pixels = centre.get() + x * pitch;
              if constexpr (K > 0) dot_tile<T, K>(line, pixels, pitch, row_sums + x * taps_pitch, taps_pitch);
              else dot_any<T>(line, pixels, pitch, k, row_sums + x * taps_pitch, taps_pitch);
            }
          }
        }
      }
      for (int64_t y = top; y < bottom; ++y)
        write(job.result, b, 0, taps, y, x0, columns, sums.get() + (y - top) * columns_most * taps_pitch, taps_pitch);
    }
  }
  return failures == 0;
}
