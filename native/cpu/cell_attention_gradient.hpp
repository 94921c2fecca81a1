// The gradients of the attention to cells. The weights of a block are computed again.
//
// Windows of neighbouring cells overlap, so that a cell's gradient has parts from many blocks. The grid is cut into
// squares, and the windows of two squares with another one between them share no cell. A square whose row and column
// numbers are even or odd belongs to one of four phases, which follow one another; in a phase, each thread computes
// other squares. So each sum is taken in one order, whatever the number of threads.

constexpr int kDotPixels = 4;

// Lanes of one vector hold the products of that many pixels and taps.
template <class T>
constexpr int kDotTaps = kLanes<T> > kDotPixels ? kLanes<T> / kDotPixels : 1;

// to[tap * kPitch + pixel] = sum over channels of pixels[pixel][c] * taps[tap][c], for kDotPixels pixels and kDotTaps
// taps. A vector holds channels while they are summed.
template <class T>
inline void dot_tile(const T* const* pixels, const T* const* taps, int64_t channels, T* to) {
  constexpr int P = kDotPixels, Q = kDotTaps<T>, rows = P * Q, groups = (rows + kLanes<T> - 1) / kLanes<T>;
  Vector<T> sums[rows] = {};
  for (int64_t c = 0; c < channels; c += kLanes<T>) {
    const int64_t here = channels - c;
    Vector<T> input[P];
#pragma GCC unroll 4
    for (int p = 0; p < P; ++p) {
      input[p] = load_some<T>(pixels[p] + c, here);
      keep_in_register<T>(input[p]);
    }
#pragma GCC unroll 4
    for (int q = 0; q < Q; ++q) {
      Vector<T> value = load_some<T>(taps[q] + c, here);
      keep_in_register<T>(value);
#pragma GCC unroll 4
      for (int p = 0; p < P; ++p) sums[q * P + p] += value * input[p];
    }
  }
  T found[groups * kLanes<T>];
#pragma GCC unroll 2
  for (int group = 0; group < groups; ++group)
    store<T>(found + group * kLanes<T>, add_lanes<T>(sums + group * kLanes<T>));
  for (int q = 0; q < Q; ++q)
    for (int p = 0; p < P; ++p) to[q * kPitch + p] = found[q * P + p];
}

// All pixels and taps; behind the last of either, the addresses are repeated.
template <class T>
void dot_products(const T** pixels, int64_t pixel_count, const T** taps, int64_t tap_count, int64_t channels, T* to) {
  for (int i = 0; i < kDotPixels; ++i) pixels[pixel_count + i] = pixels[pixel_count - 1];
  for (int i = 0; i < kDotTaps<T>; ++i) taps[tap_count + i] = taps[tap_count - 1];
  for (int64_t pixel = 0; pixel < pixel_count; pixel += kDotPixels)
    for (int64_t tap = 0; tap < tap_count; tap += kDotTaps<T>)
      dot_tile<T>(pixels + pixel, taps + tap, channels, to + tap * kPitch + pixel);
}

// The same of planes: planes[c * kPitch + pixel] and window[tap * channels + c].
template <class T>
void plane_products(const T* planes, const T* window, int64_t taps, int64_t channels, int64_t pixels, T* to) {
  for (int64_t lane = 0; lane < pixels; lane += kLanes<T>)
    for (int64_t tap = 0; tap < taps; ++tap) {
      Vector<T> sum{};
      for (int64_t c = 0; c < channels; ++c)
        sum += load<T>(planes + c * kPitch + lane) * broadcast<T>(window[tap * channels + c]);
      store<T>(to + tap * kPitch + lane, sum);
    }
}

// Adds sum over pixels of weights[tap * kPitch + pixel] * planes[c * kPitch + pixel] to channel c of the tap's cell.
template <class T>
void add_to_window(const Block& block, const T* weights, const T* planes, const featup_tensor& into) {
  const int64_t pixels = block.pixels(), channels = into.size[1];
  for (int64_t i = 0; i < block.down.count(); ++i)
    for (int64_t j = 0; j < block.across.count(); ++j, weights += kPitch)
      for (int64_t c = 0; c < channels; ++c) {
        Vector<T> sums{};
        for (int64_t lane = 0; lane < pixels; lane += kLanes<T>)
          sums += load<T>(weights + lane) * load<T>(planes + c * kPitch + lane);
        T sum = 0;
        for (int lane = 0; lane < kLanes<T>; ++lane) sum += sums[lane];
        *const_cast<T*>(address<T>(into, block.batch, c, block.down.line + i, block.across.line + j)) += sum;
      }
}

// From the products of the gradient with the values to the gradient of the logits, which replaces them.
template <class T>
void gradient_of_logits(const T* weights, int64_t taps, int64_t pixels, T* products) {
  for (int64_t lane = 0; lane < pixels; lane += kLanes<T>) {
    Vector<T> mean{};
    for (int64_t tap = 0; tap < taps; ++tap)
      mean += load<T>(weights + tap * kPitch + lane) * load<T>(products + tap * kPitch + lane);
    for (int64_t tap = 0; tap < taps; ++tap) {
      T* at = products + tap * kPitch + lane;
      store<T>(at, load<T>(weights + tap * kPitch + lane) * (load<T>(at) - mean));
    }
  }
}

// What the blocks add to the logits of distance: a sum for each line, tap and cell along the line. Cells of one line
// are computed at the same time, so that they must not share a number.
struct LogitSums {
  Scratch<double> rows, columns;  // [((b * H + y) * k + i) * w + cell column], [((b * W + x) * k + j) * h + cell row]
  const int64_t batch, height, width, kernel_size, cell_rows, cell_columns;

  explicit LogitSums(const AttentionJob& job)
      : rows(job.queries.size[0] * job.queries.size[2] * job.row_logits.size[3] * job.keys.size[3]),
        columns(job.queries.size[0] * job.queries.size[3] * job.row_logits.size[3] * job.keys.size[2]),
        batch(job.queries.size[0]),
        height(job.queries.size[2]),
        width(job.queries.size[3]),
        kernel_size(job.row_logits.size[3]),
        cell_rows(job.keys.size[2]),
        cell_columns(job.keys.size[3]) {
    if (!ready()) return;
    memset(rows.get(), 0, size_t(batch * height * kernel_size * cell_columns) * sizeof(double));
    memset(columns.get(), 0, size_t(batch * width * kernel_size * cell_rows) * sizeof(double));
  }
  bool ready() const { return rows.get() && columns.get(); }

  // through[tap * kPitch + pixel]: the gradient of the block's logits.
  template <class T>
  void add(const Block& block, const T* through) const {
    for (int64_t i = block.down.first; i < block.down.end; ++i)
      for (int64_t j = block.across.first; j < block.across.end; ++j)
        for (int64_t y = block.rows.begin, pixel = 0; y < block.rows.end; ++y) {
          double* column = columns.get() + ((block.batch * width + block.columns.begin) * kernel_size + j) * cell_rows +
                           block.rows.cell;
          double sum = 0;
          for (int64_t x = 0; x < block.width(); ++x, ++pixel, column += kernel_size * cell_rows) {
            const double value =
                through[((i - block.down.first) * block.across.count() + j - block.across.first) * kPitch + pixel];
            sum += value;
            *column += value;
          }
          rows.get()[((block.batch * height + y) * kernel_size + i) * cell_columns + block.columns.cell] += sum;
        }
  }

  template <class T>
  static void finish(const double* sums, int64_t batch, int64_t lines, int64_t taps, int64_t cells,
                     const featup_tensor& into) {
    for (int64_t line = 0; line < lines; ++line)
      for (int64_t tap = 0; tap < taps; ++tap) {
        double total = 0;
        for (int64_t b = 0; b < batch; ++b)
          for (int64_t cell = 0; cell < cells; ++cell) total += sums[((b * lines + line) * taps + tap) * cells + cell];
        *const_cast<T*>(address<T>(into, 0, 0, line, tap)) = T(total);
      }
  }
};

// Further memory of one thread.
template <class T>
struct GradientScratch {
  ManyScratch<T> addresses;
  FewScratch<T> few;             // values of the window and planes of the gradient
  Scratch<T> products, queries;  // gradients of weights and logits; of queries
  Scratch<T*> targets;
  GradientScratch(const AttentionJob& job, int64_t few_channels)
      : addresses(most_taps(job)),
        few(most_taps(job), few_channels),
        products((most_taps(job) + kProductRows) * kPitch),
        queries(job.queries.size[1] * kPitch),
        targets(most_taps(job) + kProductRows) {}
  bool ready() const { return addresses.ready() && few.ready() && products.get() && queries.get() && targets.get(); }
};

// Products of the gradient with the values of the window, and the gradient of the values if it is wanted.
template <class T>
void gradient_of_values(const AttentionGradientJob& job, const Block& block, const T* weights,
                        const GradientScratch<T>& more) {
  const AttentionJob& forward = job.forward;
  const int64_t channels = forward.values.size[1], taps = block.taps(), pixels = block.pixels();
  T* const products = more.products.get();
  if (channels <= kFewChannels) {
    pack_window<T>(block, forward.values, more.few.window.get());
    pack_planes<T>(block, forward.result, more.few.planes.get());
    plane_products<T>(more.few.planes.get(), more.few.window.get(), taps, channels, pixels, products);
    if (job.grad_values != nullptr) add_to_window<T>(block, weights, more.few.planes.get(), *job.grad_values);
    return;
  }
  const T **const tap_rows = more.addresses.taps.get(), **const pixel_rows = more.addresses.pixels.get();
  tap_addresses<T>(block, forward.values, tap_rows);
  pixel_addresses<T>(block, forward.result, pixel_rows);
  dot_products<T>(pixel_rows, pixels, tap_rows, taps, channels, products);
  for (int64_t tap = 0; tap < taps; ++tap) store<T>(products + tap * kPitch + pixels, Vector<T>{});
  if (job.grad_values == nullptr) return;
  tap_addresses<T>(block, *job.grad_values, tap_rows);
  for (int64_t tap = 0; tap < taps; ++tap) more.targets.get()[tap] = const_cast<T*>(tap_rows[tap]);
  for (int i = 0; i < kProductRows; ++i) more.targets.get()[taps + i] = nullptr;
  product<T, false>(weights, pixel_rows, pixels, channels, more.targets.get(), taps, Write::add);
}

template <class T>
void gradient_of_block(const AttentionGradientJob& job, const AttentionTables<T>& tables, const Block& block,
                       const AttentionScratch<T>& scratch, const GradientScratch<T>& more, const LogitSums& sums) {
  const int64_t embeddings = job.forward.queries.size[1];
  weights_of_block<T>(job.forward, tables, block, scratch);
  gradient_of_values<T>(job, block, scratch.weights.get(), more);
  T* const through = more.products.get();
  gradient_of_logits<T>(scratch.weights.get(), block.taps(), block.pixels(), through);
  sum_over_taps<T>(through, scratch.keys.get(), block.taps(), embeddings, block.pixels(), more.queries.get());
  for (int64_t e = 0; e < embeddings; ++e) unpack_plane<T>(block, more.queries.get() + e * kPitch, job.grad_queries, e);
  add_to_window<T>(block, through, scratch.queries.get(), job.grad_keys);
  sums.add(block, through);
}

// The first of the runs that lie in a coarse line or in one behind it.
inline int64_t first_run(const Run* runs, int64_t count, int64_t cell) {
  int64_t low = 0, high = count;
  while (low < high) {
    const int64_t middle = (low + high) / 2;
    if (runs[middle].cell < cell) low = middle + 1;
    else high = middle;
  }
  return low;
}

// The gradients of keys and values are 0 before. With many channels, values, their gradient and that of the result have
// channels next to each other.
template <class T>
bool attention_gradient_of(const AttentionGradientJob& job) {
  const AttentionJob& forward = job.forward;
  const int64_t k = forward.row_logits.size[3], channels = forward.values.size[1];
  const AttentionTables<T> tables(forward);
  const LogitSums sums(forward);
  if (!tables.ready() || !sums.ready()) return false;
  const int64_t side = larger_of(k - 1, 1);
  const int64_t down = (sums.cell_rows + side - 1) / side, across = (sums.cell_columns + side - 1) / side;
  int failures = 0;
#pragma omp parallel num_threads(forward.threads) reduction(+ : failures)
  {
    const AttentionScratch<T> scratch(forward);
    const GradientScratch<T> more(forward, channels <= kFewChannels ? channels : 0);
    const bool ready = scratch.ready() && more.ready();
    if (!ready) ++failures;
    for (int64_t phase = 0; phase < 4; ++phase) {
      const int64_t high = (down + 1 - phase / 2) / 2, wide = (across + 1 - phase % 2) / 2;
#pragma omp for schedule(dynamic, 1)
      for (int64_t task = 0; task < sums.batch * high * wide; ++task) {
        if (!ready) continue;
        const int64_t row = (task / wide % high * 2 + phase / 2) * side, column = (task % wide * 2 + phase % 2) * side;
        const int64_t rows_end = first_run(tables.row_runs.get(), tables.rows, row + side);
        const int64_t columns_end = first_run(tables.column_runs.get(), tables.columns, column + side);
        for (int64_t i = first_run(tables.row_runs.get(), tables.rows, row); i < rows_end; ++i)
          for (int64_t j = first_run(tables.column_runs.get(), tables.columns, column); j < columns_end; ++j)
            gradient_of_block<T>(job, tables, tables.block(forward, task / (high * wide), i, j), scratch, more, sums);
      }
    }
  }
  sums.finish<T>(sums.rows.get(), sums.batch, sums.height, k, sums.cell_columns, job.grad_row_logits);
  sums.finish<T>(sums.columns.get(), sums.batch, sums.width, k, sums.cell_rows, job.grad_column_logits);
  return failures == 0;
}
