// Attention of output pixels to the window of coarse cells around the cell that they lie in.
//
// All pixels of a cell share the keys and values of its window. A block is the pixels of one cell, or a part of them if
// there are many; its weights are computed with a pixel in each lane, and stay in the nearest caches. Many channels: a
// block's result is the product of two small matrices, pixels x taps and taps x channels, in tiles of registers. Few
// channels: sums over the taps in the lanes of the weights.
//
// Every sum runs over the taps that exist, in the same order, so that a pixel's bits do not depend on its neighbours.

constexpr int64_t kRunLength = 16;                            // most rows and columns of a block
constexpr int64_t kBlock = kRunLength * kRunLength;           // pixels
constexpr int64_t kPitch = kBlock + 64 / int(sizeof(float));  // no power of two: taps must not share sets of a cache
constexpr int64_t kTaskRuns = 8;                              // column runs of one task
constexpr int kProductRows = kManyRegisters ? 6 : kVectorBytes == 32 ? 6 : 4;
constexpr int kProductVectors = kManyRegisters ? 4 : 2;

template <int N>
struct Number {
  static constexpr int value = N;
};

// Output lines begin .. end - 1, which all lie in the coarse line `cell`.
struct Run {
  int64_t begin, end, cell;
};

// Cuts the lines into runs, of which there are at most as many as lines, and returns their number.
inline int64_t cut_into_runs(const int64_t* cells, int64_t lines, Run* runs) {
  int64_t count = 0;
  for (int64_t begin = 0, end; begin < lines; begin = end) {
    for (end = begin + 1; end < lines && cells[end] == cells[begin];) ++end;
    const int64_t parts = (end - begin + kRunLength - 1) / kRunLength;
    for (int64_t part = 0; part < parts; ++part)
      runs[count++] = {begin + (end - begin) * part / parts, begin + (end - begin) * (part + 1) / parts, cells[begin]};
  }
  return count;
}

// The taps of a window that exist along one side: from `first` to `end`, at the coarse lines from `line` on.
struct TapLine {
  int64_t first, end, line;
  TapLine(int64_t cell, int64_t kernel_size, int64_t length) {
    const int64_t radius = kernel_size / 2;
    first = larger_of(radius - cell, 0);
    end = smaller_of(length - cell + radius, kernel_size);
    line = cell - radius + first;
  }
  int64_t count() const { return end - first; }
};

// The pixels of a block, numbered row by row, and the taps of their window, numbered row by row among those that exist.
struct Block {
  int64_t batch;
  Run rows, columns;
  TapLine down, across;
  int64_t width() const { return columns.end - columns.begin; }
  int64_t pixels() const { return (rows.end - rows.begin) * width(); }
  int64_t taps() const { return down.count() * across.count(); }
};

// What all threads read: the runs, and the logits of distance as lines of the number format, one for each tap.
template <class T>
struct AttentionTables {
  const int64_t height, width, kernel_size;
  Scratch<Run> row_runs, column_runs;
  Scratch<T> row_logits, column_logits;
  int64_t rows = 0, columns = 0;  // numbers of runs

  explicit AttentionTables(const AttentionJob& job)
      : height(job.queries.size[2]),
        width(job.queries.size[3]),
        kernel_size(job.row_logits.size[3]),
        row_runs(height),
        column_runs(width),
        row_logits(kernel_size * height),
        column_logits(kernel_size * width) {
    if (!ready()) return;
    rows = cut_into_runs(job.row_cells, height, row_runs.get());
    columns = cut_into_runs(job.column_cells, width, column_runs.get());
    for (int64_t tap = 0; tap < kernel_size; ++tap) {
      for (int64_t y = 0; y < height; ++y)
        row_logits.get()[tap * height + y] = *address<T>(job.row_logits, 0, 0, y, tap);
      for (int64_t x = 0; x < width; ++x)
        column_logits.get()[tap * width + x] = *address<T>(job.column_logits, 0, 0, x, tap);
    }
  }
  bool ready() const { return row_runs.get() && column_runs.get() && row_logits.get() && column_logits.get(); }
  Block block(const AttentionJob& job, int64_t b, int64_t row_run, int64_t column_run) const {
    const Run down = row_runs.get()[row_run], across = column_runs.get()[column_run];
    return {b, down, across, TapLine(down.cell, kernel_size, job.keys.size[2]),
            TapLine(across.cell, kernel_size, job.keys.size[3])};
  }
};

// The number of taps that a window can have in the grid.
inline int64_t most_taps(const AttentionJob& job) {
  const int64_t k = job.row_logits.size[3];
  return smaller_of(k, job.keys.size[2]) * smaller_of(k, job.keys.size[3]);
}

// Memory of one thread. Planes of pixels have kPitch numbers, of which those after the last pixel are 0 or unused.
template <class T>
struct AttentionScratch {
  Scratch<T> queries, keys, row_logits, column_logits, weights;
  explicit AttentionScratch(const AttentionJob& job)
      : queries(job.queries.size[1] * kPitch),
        keys(most_taps(job) * job.queries.size[1]),
        row_logits(job.row_logits.size[3] * kPitch),
        column_logits(job.row_logits.size[3] * kPitch),
        weights((most_taps(job) + kProductRows) * kPitch) {}
  bool ready() const { return queries.get() && keys.get() && row_logits.get() && column_logits.get() && weights.get(); }
};

// Copies the block's part of a plane, whose row y begins at `rows(y)`.
template <class T, class Rows>
inline void pack_plane(const Block& block, int64_t width, Rows rows, T* to) {
  const int64_t count = block.width();
  for (int64_t y = block.rows.begin; y < block.rows.end; ++y, to += count)
    for (int64_t x = 0; x < count; x += kLanes<T>)
      store<T>(to + x, load_between<T>(rows(y), block.columns.begin + x, width, false));
  store<T>(to, Vector<T>{});
}

template <class T>
inline void pack_planes(const Block& block, const featup_tensor& from, T* to) {
  for (int64_t c = 0; c < from.size[1]; ++c)
    pack_plane<T>(
        block, from.size[3], [&](int64_t y) { return address<T>(from, block.batch, c, y, 0); }, to + c * kPitch);
}

// The reverse: writes a plane of pixels into the block's part of a plane.
template <class T>
inline void unpack_plane(const Block& block, const T* from, const featup_tensor& into, int64_t c) {
  const size_t bytes = size_t(block.width()) * sizeof(T);
  for (int64_t y = block.rows.begin; y < block.rows.end; ++y, from += block.width())
    memcpy(const_cast<T*>(address<T>(into, block.batch, c, y, block.columns.begin)), from, bytes);
}

// to[tap * channels + c] for the cells of the window.
template <class T>
inline void pack_window(const Block& block, const featup_tensor& from, T* to) {
  for (int64_t i = 0; i < block.down.count(); ++i)
    for (int64_t j = 0; j < block.across.count(); ++j)
      for (int64_t c = 0; c < from.size[1]; ++c)
        *to++ = *address<T>(from, block.batch, c, block.down.line + i, block.across.line + j);
}

// Fills the scratch; weights[tap * kPitch + pixel] add up to one over the taps. E: number of embeddings, 0 for any.
template <class T, int E>
void weights_of_block(const AttentionJob& job, const AttentionTables<T>& tables, const Block& block,
                      const AttentionScratch<T>& scratch) {
  const int64_t embeddings = E > 0 ? E : job.queries.size[1], taps = block.taps(), pixels = block.pixels();
  pack_planes<T>(block, job.queries, scratch.queries.get());
  pack_window<T>(block, job.keys, scratch.keys.get());
  for (int64_t i = block.down.first; i < block.down.end; ++i) {
    const T* logits = tables.row_logits.get() + i * tables.height;
    T* to = scratch.row_logits.get() + i * kPitch;
    for (int64_t y = block.rows.begin; y < block.rows.end; ++y, to += block.width())
      for (int64_t x = 0; x < block.width(); x += kLanes<T>) store<T>(to + x, broadcast<T>(T(1)) * logits[y]);
    store<T>(to, Vector<T>{});
  }
  for (int64_t j = block.across.first; j < block.across.end; ++j)
    pack_plane<T>(
        block, tables.width, [&](int64_t) { return tables.column_logits.get() + j * tables.width; },
        scratch.column_logits.get() + j * kPitch);
  for (int64_t lane = 0; lane < pixels; lane += kLanes<T>) {
    Vector<T> query[E > 0 ? E : 1];
    for (int e = 0; e < E; ++e) query[e] = load<T>(scratch.queries.get() + e * kPitch + lane);
    T* const weights = scratch.weights.get() + lane;
    T* at = weights;
    const T* key = scratch.keys.get();
    Vector<T> most = broadcast<T>(-HUGE_VAL), total{};
    for (int64_t i = block.down.first; i < block.down.end; ++i) {
      const Vector<T> down = load<T>(scratch.row_logits.get() + i * kPitch + lane);
      for (int64_t j = block.across.first; j < block.across.end; ++j, at += kPitch, key += embeddings) {
        Vector<T> logit = down + load<T>(scratch.column_logits.get() + j * kPitch + lane);
        for (int64_t e = 0; e < embeddings; ++e)
          logit += (E > 0 ? query[e] : load<T>(scratch.queries.get() + e * kPitch + lane)) * broadcast<T>(key[e]);
        store<T>(at, logit);
        most = larger<T>(logit, most);
      }
    }
    for (int64_t tap = 0; tap < taps; ++tap) {
      const Vector<T> value = exponential(load<T>(weights + tap * kPitch) - most);
      store<T>(weights + tap * kPitch, value);
      total += value;
    }
    const Vector<T> share = broadcast<T>(T(1)) / total;
    for (int64_t tap = 0; tap < taps; ++tap) store<T>(weights + tap * kPitch, load<T>(weights + tap * kPitch) * share);
  }
}

template <class T>
inline void weights_of_block(const AttentionJob& job, const AttentionTables<T>& tables, const Block& block,
                             const AttentionScratch<T>& scratch) {
  if (job.queries.size[1] == 4) weights_of_block<T, 4>(job, tables, block, scratch);
  else weights_of_block<T, 0>(job, tables, block, scratch);
}

// -- many channels ---------------------------------------------------------------------------------------------------

enum class Write { store, stream, add };

// For M targets and V vectors of each: target[m] = sum over the terms n of weight(m, n) * terms[n], or added to it. The
// weight is at [n * kPitch + m] if Across, else at [m * kPitch + n]. A target may be NULL.
template <class T, bool Across, int M, int V, bool Whole>
inline void product_tile(const T* weights, const T* const* terms, int64_t count, int64_t channel, int64_t channels,
                         T* const* targets, Write how) {
  Vector<T> sums[M][V] = {};
  for (int64_t n = 0; n < count; ++n) {
    const T* from = terms[n] + channel;
    const T* weight = weights + n * (Across ? kPitch : 1);
    Vector<T> input[V];
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) {
      input[v] = Whole ? load<T>(from + v * kLanes<T>) : load_some<T>(from + v * kLanes<T>, channels - v * kLanes<T>);
      keep_in_register<T>(input[v]);
    }
#pragma GCC unroll 6
    for (int m = 0; m < M; ++m) {
      Vector<T> factor = broadcast<T>(weight[Across ? m : m * kPitch]);
      keep_in_register<T>(factor);
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) sums[m][v] += factor * input[v];
    }
  }
#pragma GCC unroll 6
  for (int m = 0; m < M; ++m) {
    if (targets[m] == nullptr) continue;
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) {
      T* to = targets[m] + channel + v * kLanes<T>;
      const int64_t here = Whole ? kLanes<T> : larger_of(channels - v * kLanes<T>, 0);
      if (how == Write::add) store_some<T>(to, load_some<T>(to, here) + sums[m][v], here);
      else if (Whole && how == Write::stream) stream<T>(to, sums[m][v]);
      else store_some<T>(to, sums[m][v], here);
    }
  }
}

// All targets and channels. Behind the last target, `targets` has kProductRows times NULL.
template <class T, bool Across>
void product(const T* weights, const T* const* terms, int64_t count, int64_t channels, T* const* targets, int64_t rows,
             Write how) {
  constexpr int64_t block = kProductVectors * kLanes<T>;
  constexpr int half = kProductRows / 2, quarter = kProductVectors > 2 ? kProductVectors / 4 : 1;
  for (int64_t next = 0; next < channels; next += block) {
    // The last block overlaps its neighbour instead of being cut, if there are enough channels for whole vectors and
    // nothing is added twice by that.
    const int64_t rest = channels - next;
    const int64_t vectors = rest > block / 2 ? kProductVectors : rest > block / 4 ? kProductVectors / 2 : quarter;
    const bool cut = rest < vectors * kLanes<T>;
    const int64_t c = cut && how != Write::add ? larger_of(channels - vectors * kLanes<T>, 0) : next;
    const int64_t here = smaller_of(channels - c, vectors * kLanes<T>);
    const bool whole = here == vectors * kLanes<T>;
    for (int64_t row = 0; row < rows; row += kProductRows) {
      const bool few = rows - row <= half;
      const auto run = [&](auto tall, auto wide) {
        constexpr int M = decltype(tall)::value, V = decltype(wide)::value;
        const T* at = weights + row * (Across ? 1 : kPitch);
        if (whole) product_tile<T, Across, M, V, true>(at, terms, count, c, here, targets + row, how);
        else product_tile<T, Across, M, V, false>(at, terms, count, c, here, targets + row, how);
      };
      const auto with_width = [&](auto tall) {
        if (vectors == kProductVectors) run(tall, Number<kProductVectors>());
        else if (vectors == quarter) run(tall, Number<quarter>());
        else run(tall, Number<kProductVectors / 2>());
      };
      if (few) with_width(Number<half>());
      else with_width(Number<kProductRows>());
    }
  }
}

// rows[pixel] for the pixels of the block, in a map with its channels next to each other.
template <class T>
inline void pixel_addresses(const Block& block, const featup_tensor& map, const T** rows) {
  for (int64_t y = block.rows.begin; y < block.rows.end; ++y)
    for (int64_t x = block.columns.begin; x < block.columns.end; ++x) *rows++ = address<T>(map, block.batch, 0, y, x);
}

template <class T>
inline void tap_addresses(const Block& block, const featup_tensor& map, const T** rows) {
  for (int64_t i = 0; i < block.down.count(); ++i)
    for (int64_t j = 0; j < block.across.count(); ++j)
      *rows++ = address<T>(map, block.batch, 0, block.down.line + i, block.across.line + j);
}

// -- few channels ----------------------------------------------------------------------------------------------------

// to[c * kPitch + pixel] = sum over taps of weights[tap * kPitch + pixel] * window[tap * channels + c].
template <class T, int G>
inline void sum_over_taps(const T* weights, const T* window, int64_t taps, int64_t channels, int64_t pixels, T* to) {
  for (int64_t lane = 0; lane < pixels; lane += kLanes<T>) {
    Vector<T> sums[G] = {};
    for (int64_t tap = 0; tap < taps; ++tap) {
      const Vector<T> weight = load<T>(weights + tap * kPitch + lane);
#pragma GCC unroll 4
      for (int g = 0; g < G; ++g) sums[g] += weight * broadcast<T>(window[tap * channels + g]);
    }
#pragma GCC unroll 4
    for (int g = 0; g < G; ++g) store<T>(to + g * kPitch + lane, sums[g]);
  }
}

template <class T>
inline void sum_over_taps(const T* weights, const T* window, int64_t taps, int64_t channels, int64_t pixels, T* to) {
  for (int64_t c = 0; c < channels; c += 4) {
    const int64_t some = smaller_of(channels - c, 4);
    const auto run = some == 4   ? sum_over_taps<T, 4>
                     : some == 3 ? sum_over_taps<T, 3>
                     : some == 2 ? sum_over_taps<T, 2>
                                 : sum_over_taps<T, 1>;
    run(weights, window + c, taps, channels, pixels, to + c * kPitch);
  }
}

// -- the operators ---------------------------------------------------------------------------------------------------

// Calls body(block, scratch) for every block of the output, each on one of the threads; `prepare` makes the thread's
// further scratch, which is passed on to body. Returns false if memory ran out.
template <class T, class Prepare, class Body>
bool for_every_block(const AttentionJob& job, Prepare prepare, Body body) {
  const AttentionTables<T> tables(job);
  if (!tables.ready()) return false;
  const int64_t chunks = (tables.columns + kTaskRuns - 1) / kTaskRuns,
                tasks = job.queries.size[0] * tables.rows * chunks;
  int failures = 0;
#pragma omp parallel num_threads(job.threads) reduction(+ : failures)
  {
    const AttentionScratch<T> scratch(job);
    const auto more = prepare();
    const bool ready = scratch.ready() && more.ready();
    if (!ready) ++failures;
#pragma omp for schedule(dynamic, 1)
    for (int64_t task = 0; task < tasks; ++task) {
      if (!ready) continue;
      const int64_t first = task % chunks * kTaskRuns;
      for (int64_t run = first; run < smaller_of(first + kTaskRuns, tables.columns); ++run) {
        const Block block = tables.block(job, task / (chunks * tables.rows), task / chunks % tables.rows, run);
        weights_of_block<T>(job, tables, block, scratch);
        body(block, scratch, more);
      }
    }
  }
  return failures == 0;
}

// Scratch for the values of a window and the results of a block, few channels.
template <class T>
struct FewScratch {
  Scratch<T> window, planes;
  FewScratch(int64_t taps, int64_t channels) : window(taps * channels), planes(channels * kPitch) {}
  bool ready() const { return window.get() && planes.get(); }
};

// Scratch for the addresses of the vectors of channels of taps and pixels.
template <class T>
struct ManyScratch {
  Scratch<const T*> taps, pixels;
  explicit ManyScratch(int64_t most) : taps(most + kProductRows), pixels(kBlock + kProductRows) {}
  bool ready() const { return taps.get() && pixels.get(); }
};

// Values and result have their channels next to each other.
template <class T>
bool attention_many(const AttentionJob& job) {
  const Write how = is_worth_streaming<T>(job.result) ? Write::stream : Write::store;
  const bool done = for_every_block<T>(
      job, [&] { return ManyScratch<T>(most_taps(job)); },
      [&](const Block& block, const AttentionScratch<T>& scratch, const ManyScratch<T>& rows) {
        tap_addresses<T>(block, job.values, rows.taps.get());
        pixel_addresses<T>(block, job.result, rows.pixels.get());
        for (int i = 0; i < kProductRows; ++i) rows.pixels.get()[block.pixels() + i] = nullptr;
        product<T, true>(scratch.weights.get(), rows.taps.get(), block.taps(), job.result.size[1],
                         const_cast<T* const*>(rows.pixels.get()), block.pixels(), how);
        if (how == Write::stream) end_of_streaming();
      });
  return done;
}

// The result is planes.
template <class T>
bool attention_few(const AttentionJob& job) {
  const int64_t channels = job.result.size[1];
  return for_every_block<T>(
      job, [&] { return FewScratch<T>(most_taps(job), channels); },
      [&](const Block& block, const AttentionScratch<T>& scratch, const FewScratch<T>& few) {
        pack_window<T>(block, job.values, few.window.get());
        sum_over_taps<T>(scratch.weights.get(), few.window.get(), block.taps(), channels, block.pixels(),
                         few.planes.get());
        for (int64_t c = 0; c < channels; ++c) unpack_plane<T>(block, few.planes.get() + c * kPitch, job.result, c);
      });
}

// The weights themselves: the result has a plane for each tap.
template <class T>
bool attention_weights_of(const AttentionJob& job) {
  struct Nothing {
    Scratch<T> zeros{kPitch};
    bool ready() const { return zeros.get() != nullptr; }
  };
  const int64_t k = job.row_logits.size[3];
  return for_every_block<T>(
      job, [] { return Nothing(); },
      [&](const Block& block, const AttentionScratch<T>& scratch, const Nothing& nothing) {
        memset(nothing.zeros.get(), 0, size_t(kPitch) * sizeof(T));
        const T* weights = scratch.weights.get();
        for (int64_t tap = 0; tap < k * k; ++tap) {
          const int64_t i = tap / k, j = tap % k;
          const bool there =
              i >= block.down.first && i < block.down.end && j >= block.across.first && j < block.across.end;
          unpack_plane<T>(block, there ? weights : nothing.zeros.get(), job.result, tap);
          if (there) weights += kPitch;
        }
      });
}
