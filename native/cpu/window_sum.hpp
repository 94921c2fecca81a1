// The weighted window sum for many channels: pixels in rows of a stripe, channels along the vectors.
//
// A thread computes a stripe of a band of rows. It gathers the stripe's weights once, pixel by pixel. Then it walks
// down the band with one block of channels after the other, and keeps the k rows under the window in a ring. Copying a
// row into the ring also converts its numbers and, where channels are not next to each other, transposes it, so all
// layouts share one kernel. The tile holds the sums of several pixels in registers, so that each input vector is used
// for as many taps.

constexpr int kTilePixels = kManyRegisters ? 8 : 4;
constexpr int kTileVectors = kManyRegisters ? 3 : 2;
constexpr int64_t kStripe = 32;  // two cache lines of a float32 plane
constexpr int64_t kBand = 56;

template <class T, int K, int P, int V>
inline void sum_tile(const T* const* rows, const T* weights, T* result, int64_t result_pitch, bool around_caches) {
  constexpr int pitch = V * kLanes<T>;
  Vector<T> sums[P][V] = {};
  for (int dy = 0; dy < K; ++dy) {
    const T* row = rows[dy];
    const T* weight_row = weights + dy * K;
#pragma GCC unroll 20
    for (int column = 0; column < P + K - 1; ++column) {
      Vector<T> input[V];
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) {
        input[v] = load<T>(row + column * pitch + v * kLanes<T>);
        keep_in_register<T>(input[v]);
      }
#pragma GCC unroll 8
      for (int p = 0; p < P; ++p) {
        const int dx = column - p;
        if (dx < 0 || dx >= K) continue;
        const Vector<T> weight = broadcast<T>(weight_row[p * K * K + dx]);
#pragma GCC unroll 4
        for (int v = 0; v < V; ++v) sums[p][v] += weight * input[v];
      }
    }
  }
#pragma GCC unroll 8
  for (int p = 0; p < P; ++p)
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) {
      T* to = result + p * result_pitch + v * kLanes<T>;
      if (around_caches) stream<T>(to, sums[p][v]);
      else store<T>(to, sums[p][v]);
    }
}

// Weights of a row of the stripe, pixel by pixel, 0 where nothing is read.
template <class T>
void gather_weights(const WindowSumJob& job, ReadRow<T> read, int64_t b, int64_t y, int64_t x0, int64_t columns,
                    int64_t padded_columns, T* to, T* lines) {
  const int64_t k = job.kernel_size, taps = k * k;
  const int64_t pitch = rounded_up(taps, kLanes<T>);
  if (!job.grad_input) {
    read(job.weights, b, 0, taps, y, x0, columns, lines, pitch);
    for (int64_t column = 0; column < columns; ++column)
      memcpy(to + column * taps, lines + column * pitch, size_t(taps) * sizeof(T));
  } else {
    // The tap (ey, ex) of the gradient reads a pixel for which this one is at the mirrored tap.
    for (int64_t ey = 0; ey < k; ++ey) {
      read(job.weights, b, 0, taps, y + ey - (k - 1), x0 - (k - 1), columns + k - 1, lines, pitch);
      for (int64_t column = 0; column < columns; ++column)
        for (int64_t ex = 0; ex < k; ++ex)
          to[column * taps + ey * k + ex] = lines[(column + ex) * pitch + (k - 1 - ey) * k + (k - 1 - ex)];
    }
  }
  memset(to + columns * taps, 0, size_t((padded_columns - columns) * taps) * sizeof(T));
}

template <class T, int K, int V>
void sum_row(const T* const* ring_rows, int64_t k, const T* weights, int64_t columns, T* result, int64_t result_pitch,
             bool around_caches) {
  constexpr int pitch = V * kLanes<T>;
  if constexpr (K > 0) {
    constexpr int P = kTilePixels;
    const T* rows[K];
    for (int64_t column = 0; column < columns; column += P) {
      for (int dy = 0; dy < K; ++dy) rows[dy] = ring_rows[dy] + column * pitch;
      sum_tile<T, K, P, V>(rows, weights + column * K * K, result + column * result_pitch, result_pitch, around_caches);
    }
  } else {
    // Any odd size, one pixel after the other.
    for (int64_t column = 0; column < columns; ++column) {
      Vector<T> sums[V] = {};
      const T* pixel_weights = weights + column * k * k;
      for (int64_t dy = 0; dy < k; ++dy)
        for (int64_t dx = 0; dx < k; ++dx) {
          const Vector<T> weight = broadcast<T>(pixel_weights[dy * k + dx]);
          for (int v = 0; v < V; ++v)
            sums[v] += weight * load<T>(ring_rows[dy] + (column + dx) * pitch + v * kLanes<T>);
        }
      for (int v = 0; v < V; ++v) store<T>(result + column * result_pitch + v * kLanes<T>, sums[v]);
    }
  }
}

template <class T, int K>
bool window_sum_many(const WindowSumJob& job) {
  const int64_t k = job.kernel_size, taps = k * k, margin = job.grad_input ? k - 1 : 0;
  const int64_t batch = job.result.size[0], channels = job.result.size[1];
  const int64_t height = job.result.size[2], width = job.result.size[3];
  const int64_t bands = (height + kBand - 1) / kBand, band_rows = (height + bands - 1) / bands;
  const int64_t stripes = (width + kStripe - 1) / kStripe;
  const int64_t columns_most = rounded_up(smaller_of(width, kStripe), kTilePixels);
  const int64_t block = kTileVectors * kLanes<T>;
  const int64_t ring_row = (columns_most + k - 1) * block;
  const int64_t weight_pitch = rounded_up(taps, kLanes<T>);
  const ReadRow<T> read_source = Formats<T>::reader(job.source.dtype),
                   read_weights = Formats<T>::reader(job.weights.dtype);
  const WriteRow<T> write = Formats<T>::writer(job.result.dtype);
  // Whole vectors can go straight to the result if it has the layout of the tile.
  const bool direct = job.result.dtype == kPlain<T> && job.result.stride[1] == 1 && channels % kLanes<T> == 0;
  const bool aligned = direct && reinterpret_cast<uintptr_t>(job.result.data) % kVectorBytes == 0 &&
                       job.result.stride[0] % kLanes<T> == 0 && job.result.stride[2] % kLanes<T> == 0 &&
                       job.result.stride[3] % kLanes<T> == 0;
  const bool around_caches = aligned && K > 0 && batch * channels * height * width * int64_t(sizeof(T)) > (4 << 20);
  const int64_t tasks = batch * bands * stripes;
  int failures = 0;

#pragma omp parallel num_threads(job.threads) reduction(+ : failures)
  {
    Scratch<T> weights(band_rows * columns_most * taps), lines((kStripe + k) * weight_pitch);
    Scratch<T> ring(k * ring_row), stage(columns_most * block);
    Scratch<const T*> rows(k);
    const bool ready = weights.get() && lines.get() && ring.get() && stage.get() && rows.get();
    if (!ready) ++failures;
#pragma omp for schedule(dynamic, 1)
    for (int64_t task = 0; task < tasks; ++task) {
      if (!ready) continue;
      const int64_t b = task / (bands * stripes), x0 = task % stripes * kStripe;
      const int64_t top = task / stripes % bands * band_rows, bottom = smaller_of(top + band_rows, height);
      const int64_t columns = smaller_of(width - x0, kStripe), padded_columns = rounded_up(columns, kTilePixels);
      for (int64_t y = top; y < bottom; ++y)
        gather_weights<T>(job, read_weights, b, y, x0, columns, padded_columns,
                          weights.get() + (y - top) * columns_most * taps, lines.get());
      for (int64_t c0 = 0; c0 < channels; c0 += block) {
        const int64_t count = smaller_of(channels - c0, block);
        const int64_t pitch = rounded_up(count, kLanes<T>), vectors = pitch / kLanes<T>;
        // Columns beyond the end of a row are zero and stay zero.
        const int64_t ring_columns = padded_columns + k - 1;
        for (int64_t row = top; row < bottom + k - 1; ++row) {
          T* slot = ring.get() + row % k * ring_row;
          read_source(job.source, b, c0, count, row - margin, x0 - margin, ring_columns, slot, pitch);
          const int64_t y = row - (k - 1);
          if (y < top) continue;
          for (int64_t dy = 0; dy < k; ++dy) rows.get()[dy] = ring.get() + (y + dy) % k * ring_row;
          const T* row_weights = weights.get() + (y - top) * columns_most * taps;
          const bool in_place = direct && padded_columns == columns;
          T* to = in_place ? const_cast<T*>(address<T>(job.result, b, c0, y, x0)) : stage.get();
          const int64_t to_pitch = in_place ? job.result.stride[3] : pitch;
          const bool streaming = in_place && around_caches;
          if (vectors == 1) sum_row<T, K, 1>(rows.get(), k, row_weights, padded_columns, to, to_pitch, streaming);
          else if (vectors == 2) sum_row<T, K, 2>(rows.get(), k, row_weights, padded_columns, to, to_pitch, streaming);
          else sum_row<T, K, kTileVectors>(rows.get(), k, row_weights, padded_columns, to, to_pitch, streaming);
          if (!in_place) write(job.result, b, c0, count, y, x0, columns, stage.get(), pitch);
        }
      }
    }
    end_of_streaming();
  }
  return failures == 0;
}
