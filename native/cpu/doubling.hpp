// The guided doubling: bicubic doubling, reflecting padding and a 7 x 7 window sum in one pass.
//
// Many channels: all three are linear, so the window's weights fold with those of the doubling. The four fine pixels of
// a coarse cell (a quad) all read the same 7 x 7 coarse cells around it, and neither the doubled map nor its padded
// copy is stored; each coarse vector that is loaded is used in four sums. Folding costs about as much as ten channels.
//
// Few channels: a doubled row is small compared with the 49 weights of each of its pixels. Each thread doubles the rows
// under the window in its own memory and sums in planes, as planar.hpp does.
//
// A fine line at either border is mirrored and the doubling's coarse lines are clamped; both stay within three coarse
// lines of the pixel's own cell, so that the borders only change the numbers in the tables.

constexpr int kSide = 7;
constexpr int kTaps = kSide * kSide;
constexpr int kReach = kSide / 2;
constexpr int kQuadVectors = kManyRegisters ? 4 : 2;
constexpr int64_t kQuadStripe = 8;  // coarse cells, 16 fine columns
constexpr int64_t kQuadBand = 16;   // coarse rows of one task
constexpr int64_t kStripeColumns = 2 * kQuadStripe;
constexpr int64_t kPlanarBand = 128, kPlanarRows = 16, kPlanarStripe = 1024;  // fine rows, rows at a time, fine columns

// The bicubic weights (Keys 1981, a = -0.75 as in torch) of the four coarse cells for an even and an odd fine index.
inline void cubic_weights(bool odd, double* weights) {
  const double a = -0.75, near = odd ? 0.25 : 0.75;
  const double distances[4] = {1 + near, near, 1 - near, 2 - near};
  for (int i = 0; i < 4; ++i) {
    const double x = distances[i];
    weights[i] = x <= 1 ? ((a + 2) * x - (a + 3)) * x * x + 1 : ((a * x - 5 * a) * x + 8 * a) * x - 4 * a;
  }
}

inline int64_t mirrored(int64_t index, int64_t length) {
  if (length == 1) return 0;
  const int64_t period = 2 * (length - 1);
  index %= period;
  if (index < 0) index += period;
  return index < period - index ? index : period - index;
}

inline int64_t clamped(int64_t index, int64_t length) { return smaller_of(larger_of(index, 0), length - 1); }

// The first of the four coarse cells that a fine index reads.
inline int64_t first_cell(int64_t fine) { return (fine + 1) / 2 - 2; }

// shares[tap * 7 + j]: the weight that the window's tap of this fine line gives to the coarse line `fine / 2 - 3 + j`.
template <class T>
void fold_line(int64_t fine, int64_t coarse_length, T* shares) {
  double sums[kTaps] = {};
  for (int tap = 0; tap < kSide; ++tap) {
    const int64_t index = mirrored(fine - kReach + tap, 2 * coarse_length);
    double weights[4];
    cubic_weights(index % 2 != 0, weights);
    for (int i = 0; i < 4; ++i) {
      const int64_t cell = clamped(first_cell(index) + i, coarse_length) - (fine / 2 - kReach);
      if (cell >= 0 && cell < kSide) sums[tap * kSide + cell] += weights[i];
    }
  }
  for (int i = 0; i < kTaps; ++i) shares[i] = T(sums[i]);
}

// Whether a fine line and its window are so far inside that tap t only reads the coarse lines t / 2 .. (t + 1) / 2 + 3.
inline bool far_inside(int64_t fine, int64_t coarse_length) {
  return fine / 2 >= kReach && fine / 2 + kReach < coarse_length;
}

// folded[(i * 7 + j) * pitch] of one vector of fine columns: row_shares are those of the row, column_shares[(tap * 7 +
// j) * share_pitch] differ from column to column.
template <class T, bool RowInside, bool ColumnsInside>
inline void fold_weights(const Vector<T>* weights, const T* row_shares, const T* column_shares, int64_t share_pitch,
                         T* folded, int64_t pitch) {
  Vector<T> half[kSide][kSide];  // coarse row, fine column of the window
#pragma GCC unroll 7
  for (int dx = 0; dx < kSide; ++dx) {
    Vector<T> sums[kSide] = {};
#pragma GCC unroll 7
    for (int dy = 0; dy < kSide; ++dy) {
#pragma GCC unroll 7
      for (int i = 0; i < kSide; ++i)
        if (!RowInside || (i >= dy / 2 && i <= (dy + 1) / 2 + 3))
          sums[i] += weights[dy * kSide + dx] * broadcast<T>(row_shares[dy * kSide + i]);
    }
#pragma GCC unroll 7
    for (int i = 0; i < kSide; ++i) half[i][dx] = sums[i];
  }
  for (int j = 0; j < kSide; ++j) {
    Vector<T> sums[kSide] = {};
    for (int dx = 0; dx < kSide; ++dx) {
      if (ColumnsInside && (j < dx / 2 || j > (dx + 1) / 2 + 3)) continue;
      const Vector<T> share = load<T>(column_shares + (dx * kSide + j) * share_pitch);
#pragma GCC unroll 7
      for (int i = 0; i < kSide; ++i) sums[i] += half[i][dx] * share;
    }
#pragma GCC unroll 7
    for (int i = 0; i < kSide; ++i) store<T>(folded + (i * kSide + j) * pitch, sums[i]);
  }
}

// Folded weights of the fine row y and the stripe's columns, 0 for pixels that the result does not have.
template <class T, class S>
void fold_row(const DoublingJob& job, int64_t b, int64_t y, int64_t x0, const T* row_shares, const T* column_shares,
              int64_t share_pitch, T* folded) {
  const int64_t width = job.result.size[3];
  const bool row_inside = far_inside(y, job.place.coarse_rows);
  for (int64_t x = 0; x < kStripeColumns; x += kLanes<T>) {
    const int64_t first = x0 + x - job.place.left;  // column of the weights
    Vector<T> weights[kTaps];
    const int64_t before = larger_of(-first, 0), there = smaller_of(width - first, kLanes<T>);
    for (int tap = 0; tap < kTaps; ++tap) {
      if (before == 0) {
        weights[tap] =
            there > 0 ? load_as<T, S>(address<S>(job.weights, b, tap, y - job.place.top, first), there) : Vector<T>{};
      } else {
        T lanes[kLanes<T>] = {};
        for (int64_t lane = before; lane < there; ++lane)
          lanes[lane] = T(widen(*address<S>(job.weights, b, tap, y - job.place.top, first + lane)));
        weights[tap] = load<T>(lanes);
      }
    }
    const bool columns_inside =
        far_inside(x0 + x, job.place.coarse_columns) && far_inside(x0 + x + kLanes<T> - 1, job.place.coarse_columns);
    const T* shares = column_shares + x;
    T* to = folded + x;
    if (row_inside && columns_inside)
      fold_weights<T, true, true>(weights, row_shares, shares, share_pitch, to, kStripeColumns);
    else if (row_inside) fold_weights<T, true, false>(weights, row_shares, shares, share_pitch, to, kStripeColumns);
    else if (columns_inside) fold_weights<T, false, true>(weights, row_shares, shares, share_pitch, to, kStripeColumns);
    else fold_weights<T, false, false>(weights, row_shares, shares, share_pitch, to, kStripeColumns);
  }
}

// The four sums of a quad: rows[i] + columns[j] are the coarse vectors, folded the weights of its upper left pixel.
template <class T, int V, bool Whole>
inline void sum_quad(const T* const* rows, const int64_t* columns, const T* folded, int64_t count, T* const* targets,
                     bool around_caches) {
  Vector<T> sums[4][V] = {};
  const T* weight = folded;
  for (int i = 0; i < kSide; ++i) {
    const T* row = rows[i];
#pragma GCC unroll 7
    for (int j = 0; j < kSide; ++j, weight += kStripeColumns) {
      const T* at = row + columns[j];
      Vector<T> weights[4] = {broadcast<T>(weight[0]), broadcast<T>(weight[1]),
                              broadcast<T>(weight[kTaps * kStripeColumns]),
                              broadcast<T>(weight[kTaps * kStripeColumns + 1])};
#pragma GCC unroll 4
      for (int p = 0; p < 4; ++p) keep_in_register<T>(weights[p]);
#pragma GCC unroll 8
      for (int v = 0; v < V; ++v) {
        Vector<T> input = Whole ? load<T>(at + v * kLanes<T>) : load_some<T>(at + v * kLanes<T>, count - v * kLanes<T>);
        keep_in_register<T>(input);
#pragma GCC unroll 4
        for (int p = 0; p < 4; ++p) sums[p][v] += weights[p] * input;
      }
    }
  }
  for (int p = 0; p < 4; ++p) {
    if (targets[p] == nullptr) continue;
#pragma GCC unroll 8
    for (int v = 0; v < V; ++v) {
      T* to = targets[p] + v * kLanes<T>;
      if (!Whole) store_some<T>(to, sums[p][v], larger_of(count - v * kLanes<T>, 0));
      else if (around_caches) stream<T>(to, sums[p][v]);
      else store<T>(to, sums[p][v]);
    }
  }
}

// Source and result have their channels next to each other.
template <class T, class S>
bool double_many(const DoublingJob& job) {
  const int64_t batch = job.result.size[0], channels = job.result.size[1];
  const int64_t height = job.result.size[2], width = job.result.size[3];
  const int64_t first_row = job.place.top / 2, rows_end = (job.place.top + height + 1) / 2;
  const int64_t first_column = job.place.left / 2, columns_end = (job.place.left + width + 1) / 2;
  const int64_t stripes = (columns_end - first_column + kQuadStripe - 1) / kQuadStripe;
  const int64_t bands = (rows_end - first_row + kQuadBand - 1) / kQuadBand;
  const int64_t share_pitch = stripes * kStripeColumns, tasks = batch * bands * stripes;
  constexpr int64_t block = kQuadVectors * kLanes<T>;
  constexpr int quarter = kQuadVectors > 2 ? kQuadVectors / 4 : 1;
  const bool around_caches = is_worth_streaming<T>(job.result);
  Scratch<T> row_table((rows_end - first_row) * 2 * kTaps), column_table(kTaps * share_pitch);
  if (!row_table.get() || !column_table.get()) return false;
  for (int64_t y = 2 * first_row; y < 2 * rows_end; ++y)
    fold_line<T>(y, job.place.coarse_rows, row_table.get() + (y - 2 * first_row) * kTaps);
  for (int64_t x = 0; x < share_pitch; ++x) {
    T shares[kTaps];
    fold_line<T>(smaller_of(2 * first_column + x, 2 * job.place.coarse_columns - 1), job.place.coarse_columns, shares);
    for (int i = 0; i < kTaps; ++i) column_table.get()[i * share_pitch + x] = shares[i];
  }
  int failures = 0;

#pragma omp parallel num_threads(job.threads) reduction(+ : failures)
  {
    Scratch<T> folded(2 * kTaps * kStripeColumns);
    const bool ready = folded.get() != nullptr;
    if (!ready) ++failures;
#pragma omp for schedule(dynamic, 1)
    for (int64_t task = 0; task < tasks; ++task) {
      if (!ready) continue;
      const int64_t b = task / (bands * stripes), n0 = first_column + task % stripes * kQuadStripe;
      const int64_t m0 = first_row + task / stripes % bands * kQuadBand, m1 = smaller_of(m0 + kQuadBand, rows_end);
      const int64_t quads = smaller_of(columns_end - n0, kQuadStripe), x0 = 2 * n0;
      int64_t columns[kQuadStripe + kSide - 1];
      for (int64_t i = 0; i < quads + kSide - 1; ++i)
        columns[i] = clamped(n0 - kReach + i - job.place.source_left, job.source.size[3]) * job.source.stride[3];
      for (int64_t m = m0; m < m1; ++m) {
        for (int64_t half = 0; half < 2; ++half) {
          const int64_t y = 2 * m + half;
          T* to = folded.get() + half * kTaps * kStripeColumns;
          if (y < job.place.top || y >= job.place.top + height)
            memset(to, 0, size_t(kTaps * kStripeColumns) * sizeof(T));
          else
            fold_row<T, S>(job, b, y, x0, row_table.get() + (y - 2 * first_row) * kTaps,
                           column_table.get() + (x0 - 2 * first_column), share_pitch, to);
        }
        for (int64_t next = 0; next < channels; next += block) {
          // The last block overlaps its neighbour instead of being cut, if there are enough channels for whole vectors.
          const int64_t rest = channels - next;
          const int64_t vectors = rest > block / 2 ? kQuadVectors : rest > block / 4 ? kQuadVectors / 2 : quarter;
          const int64_t c = rest < vectors * kLanes<T> ? larger_of(channels - vectors * kLanes<T>, 0) : next;
          const int64_t count = smaller_of(channels - c, vectors * kLanes<T>);
          const bool whole = count == vectors * kLanes<T>;
          const auto sum = vectors == kQuadVectors
                               ? (whole ? sum_quad<T, kQuadVectors, true> : sum_quad<T, kQuadVectors, false>)
                           : vectors == kQuadVectors / 2
                               ? (whole ? sum_quad<T, kQuadVectors / 2, true> : sum_quad<T, kQuadVectors / 2, false>)
                               : (whole ? sum_quad<T, quarter, true> : sum_quad<T, quarter, false>);
          const T* rows[kSide];
          for (int i = 0; i < kSide; ++i)
            rows[i] =
                address<T>(job.source, b, c, clamped(m - kReach + i - job.place.source_top, job.source.size[2]), 0);
          for (int64_t quad = 0; quad < quads; ++quad) {
            T* targets[4];
            for (int p = 0; p < 4; ++p) {
              const int64_t y = 2 * m + p / 2 - job.place.top, x = x0 + 2 * quad + p % 2 - job.place.left;
              const bool there = y >= 0 && y < height && x >= 0 && x < width;
              targets[p] = there ? const_cast<T*>(address<T>(job.result, b, c, y, x)) : nullptr;
            }
            sum(rows, columns + quad, folded.get() + 2 * quad, count, targets, around_caches);
          }
        }
      }
    }
    end_of_streaming();
  }
  return failures == 0;
}

// a[0] * weights[0] + ... as one chain, so that every pixel's bits come from the same instructions.
template <class T>
inline Vector<T> weighted(Vector<T> a, Vector<T> b, Vector<T> c, Vector<T> d, const T* weights) {
  Vector<T> sum = a * broadcast<T>(weights[0]);
  keep_in_register<T>(sum);
  sum += b * broadcast<T>(weights[1]);
  sum += c * broadcast<T>(weights[2]);
  sum += d * broadcast<T>(weights[3]);
  return sum;
}

// Memory in which a thread doubles a row of up to `columns` fine columns.
template <class T>
struct Lines {
  // Near a border, mirrored columns lie as far inside as they would lie outside; whole vectors are read and written.
  explicit Lines(int64_t columns)
      : size(columns / 2 + 16 + 2 * kLanes<T>), cells(size), even(size), odd(size), fine(2 * size) {}
  bool ready() const { return cells.get() && even.get() && odd.get() && fine.get(); }
  int64_t size;
  Scratch<T> cells, even, odd, fine;
};

// One row of the doubled map with its padding: fine columns left - 3 .. left + width + 3 of the row `fine_row`.
template <class T>
void double_row(const DoublingJob& job, int64_t b, int64_t c, int64_t fine_row, int64_t left, int64_t width,
                const Lines<T>& lines, T* to) {
  const int64_t row = mirrored(fine_row, 2 * job.place.coarse_rows), fine_columns = 2 * job.place.coarse_columns;
  T weights[2][4];
  for (int odd = 0; odd < 2; ++odd) {
    double exact[4];
    cubic_weights(odd, exact);
    for (int i = 0; i < 4; ++i) weights[odd][i] = T(exact[i]);
  }
  const T* rows[4];
  for (int i = 0; i < 4; ++i) {
    const int64_t cell = clamped(first_cell(row) + i, job.place.coarse_rows) - job.place.source_top;
    rows[i] = address<T>(job.source, b, c, clamped(cell, job.source.size[2]), 0);
  }
  // The cells whose two fine columns are needed, in columns of the source.
  int64_t lowest = fine_columns, highest = -1;
  for (int64_t step = 0; step <= kReach; ++step)
    for (int end = 0; end < 2; ++end) {
      const int64_t index = mirrored(end == 0 ? left - step : left + width - 1 + step, fine_columns);
      lowest = smaller_of(lowest, index);
      highest = larger_of(highest, index);
    }
  const int64_t first = lowest / 2 - job.place.source_left, count = highest / 2 - lowest / 2 + 1;
  // Beyond the ends of the source its last cells are repeated, which is what the doubling does at the map's borders.
  const int64_t from = larger_of(first - 2, 0), end = smaller_of(first + count + 2, job.source.size[3]);
  T* const cells = lines.cells.get();
  T* const at = cells - (first - 2);
  for (int64_t i = from; i < end; i += kLanes<T>) {
    const int64_t here = smaller_of(end - i, kLanes<T>);
    store_some<T>(at + i,
                  weighted<T>(load_some<T>(rows[0] + i, here), load_some<T>(rows[1] + i, here),
                              load_some<T>(rows[2] + i, here), load_some<T>(rows[3] + i, here), weights[row % 2]),
                  here);
  }
  for (int64_t i = first - 2; i < from; ++i) at[i] = at[from];
  for (int64_t i = end; i < first + count + 2; ++i) at[i] = at[end - 1];
  T *const even = lines.even.get(), *const odd = lines.odd.get(), *const fine = lines.fine.get();
  for (int64_t i = 0; i < count; i += kLanes<T>) {
    const Vector<T> near = load<T>(cells + i + 1), middle = load<T>(cells + i + 2), far = load<T>(cells + i + 3);
    store<T>(even + i, weighted<T>(load<T>(cells + i), near, middle, far, weights[0]));
    store<T>(odd + i, weighted<T>(near, middle, far, load<T>(cells + i + 4), weights[1]));
  }
  for (int64_t i = 0; i < count; ++i) {
    fine[2 * i] = even[i];
    fine[2 * i + 1] = odd[i];
  }
  const int64_t origin = 2 * (first + job.place.source_left);  // the fine column of fine[0]
  const int64_t inside_from = larger_of(left - kReach, 0), inside_to = smaller_of(left + width + kReach, fine_columns);
  T* const target = to - (left - kReach);
  for (int64_t x = left - kReach; x < inside_from; ++x) target[x] = fine[mirrored(x, fine_columns) - origin];
  memcpy(target + inside_from, fine + (inside_from - origin), size_t(inside_to - inside_from) * sizeof(T));
  for (int64_t x = inside_to; x < left + width + kReach; ++x) target[x] = fine[mirrored(x, fine_columns) - origin];
}

// All three operands are planes.
template <class T, class S>
bool double_planar(const DoublingJob& job) {
  const int64_t batch = job.result.size[0], channels = job.result.size[1];
  const int64_t height = job.result.size[2], width = job.result.size[3];
  const int64_t bands = (height + kPlanarBand - 1) / kPlanarBand, stripes = (width + kPlanarStripe - 1) / kPlanarStripe;
  const int64_t most = smaller_of(width, kPlanarStripe), pitch = most + 2 * kReach;
  const int64_t plane = (kPlanarRows + 2 * kReach) * pitch, tasks = batch * bands * stripes;
  int failures = 0;

#pragma omp parallel num_threads(job.threads) reduction(+ : failures)
  {
    Scratch<T> padded(channels * plane);
    const Lines<T> lines(most);
    const bool ready = padded.get() && lines.ready();
    if (!ready) ++failures;
#pragma omp for schedule(dynamic, 1)
    for (int64_t task = 0; task < tasks; ++task) {
      if (!ready) continue;
      const int64_t b = task / (bands * stripes), x0 = task % stripes * kPlanarStripe;
      const int64_t columns = smaller_of(width - x0, kPlanarStripe);
      const int64_t top = task / stripes % bands * kPlanarBand, bottom = smaller_of(top + kPlanarBand, height);
      int64_t made = top - kReach;  // rows of the padded map before this one are computed
      for (int64_t y0 = top; y0 < bottom; y0 += kPlanarRows) {
        const int64_t y1 = smaller_of(y0 + kPlanarRows, bottom);
        for (int64_t c = 0; c < channels; ++c) {
          T* rows = padded.get() + c * plane;
          if (y0 > top) memmove(rows, rows + kPlanarRows * pitch, size_t(2 * kReach * pitch) * sizeof(T));
          for (int64_t y = made; y < y1 + kReach; ++y)
            double_row<T>(job, b, c, job.place.top + y, job.place.left + x0, columns, lines,
                          rows + (y - y0 + kReach) * pitch);
        }
        made = y1 + kReach;
        for (int64_t y = y0; y < y1; ++y)
          for_blocks(columns, kPlanarVectors * kLanes<T>, [&](int64_t x, int64_t count) {
            const S* weights = address<S>(job.weights, b, 0, y, x0 + x);
            for (int64_t c = 0; c < channels; c += 4) {
              const T* source = padded.get() + c * plane + (y - y0) * pitch + x;
              T* result = const_cast<T*>(address<T>(job.result, b, c, y, x0 + x));
              planar_sum<T, S>(smaller_of(channels - c, 4), source, plane, pitch, weights, job.weights.stride[1], kSide,
                               result, job.result.stride[1], count);
            }
          });
      }
    }
  }
  return failures == 0;
}
