// Bilinear interpolation at whole rows and columns: result[c, y, x] lies between the source rows rows[y] and rows[y] +
// 1, and likewise for columns.
//
// With channels next to each other a pixel is a sum of four vectors with four weights. With few planes, two rows are
// first combined to one line. The line after the last one is the last one again.

// Source and result have their channels next to each other.
template <class T>
void bilinear_many(const BilinearJob& job) {
  const int64_t channels = job.result.size[1], height = job.result.size[2], width = job.result.size[3];
  const int64_t lines = job.result.size[0] * height, last_row = job.source.size[2] - 1,
                last_column = job.source.size[3] - 1;
  const int64_t step = job.source.stride[3];
#pragma omp parallel for num_threads(job.threads) schedule(static, 4)
  for (int64_t line = 0; line < lines; ++line) {
    const int64_t b = line / height, y = line % height;
    const T down = T(job.row_shares[y]);
    const T* upper = address<T>(job.source, b, 0, job.rows[y], 0);
    const T* lower = address<T>(job.source, b, 0, smaller_of(job.rows[y] + 1, last_row), 0);
    for (int64_t x = 0; x < width; ++x) {
      const T right = T(job.column_shares[x]);
      const int64_t left_at = job.columns[x] * step, right_at = smaller_of(job.columns[x] + 1, last_column) * step;
      const Vector<T> weights[4] = {broadcast<T>((1 - down) * (1 - right)), broadcast<T>((1 - down) * right),
                                    broadcast<T>(down * (1 - right)), broadcast<T>(down * right)};
      T* to = const_cast<T*>(address<T>(job.result, b, 0, y, x));
      for (int64_t c = 0; c < channels; c += kLanes<T>) {
        const int64_t count = channels - c;
        Vector<T> sum = weights[0] * load_some<T>(upper + left_at + c, count);
        sum += weights[1] * load_some<T>(upper + right_at + c, count);
        sum += weights[2] * load_some<T>(lower + left_at + c, count);
        sum += weights[3] * load_some<T>(lower + right_at + c, count);
        store_some<T>(to + c, sum, count);
      }
    }
  }
}

// Both are planes.
template <class T>
bool bilinear_planar(const BilinearJob& job) {
  const int64_t channels = job.result.size[1], height = job.result.size[2], width = job.result.size[3];
  const int64_t lines = job.result.size[0] * height, last_row = job.source.size[2] - 1, columns = job.source.size[3];
  int failures = 0;
#pragma omp parallel num_threads(job.threads) reduction(+ : failures)
  {
    Scratch<T> scratch(columns + 1);
    T* const mixed = scratch.get();
    if (mixed == nullptr) ++failures;
#pragma omp for schedule(static, 4)
    for (int64_t line = 0; line < lines; ++line) {
      if (mixed == nullptr) continue;
      const int64_t b = line / height, y = line % height;
      const T down = T(job.row_shares[y]);
      for (int64_t c = 0; c < channels; ++c) {
        const T* upper = address<T>(job.source, b, c, job.rows[y], 0);
        const T* lower = address<T>(job.source, b, c, smaller_of(job.rows[y] + 1, last_row), 0);
        for (int64_t x = 0; x < columns; x += kLanes<T>) {
          const int64_t count = columns - x;
          const Vector<T> above = load_some<T>(upper + x, count);
          store_some<T>(mixed + x, above + broadcast<T>(down) * (load_some<T>(lower + x, count) - above), count);
        }
        mixed[columns] = mixed[columns - 1];
        T* to = const_cast<T*>(address<T>(job.result, b, c, y, 0));
        for (int64_t x = 0; x < width; ++x) {
          const T left = mixed[job.columns[x]], right = mixed[job.columns[x] + 1];
          to[x] = left + T(job.column_shares[x]) * (right - left);
        }
      }
    }
  }
  return failures == 0;
}
