// out[region] = the weights; this call does the runs of 32 numbered begin to end - 1.
// A row's last run may be short; runs are numbered row by row.

template <typename F, typename T, typename S>
static inline void dequantize(const S& source, T* __restrict out, const uint* sizes, size_t begin,
                              size_t end) {
  const uint N = 32;
  const region part = region_of(sizes);
  const uint columns = part.end_column - part.first_column;
  const uint runs = (columns + N - 1) / N;
  uint row = uint(begin / runs);
  uint run = uint(begin % runs);
  for (size_t left = end - begin; left > 0; ++row, run = 0) {
    const uint last = left < runs - run ? uint(run + left) : runs;
    left -= last - run;
    const uint from = part.first_row + row;
    T* to = out + size_t(row) * columns;
    for (; run < last && (run + 1) * N <= columns; ++run) {
      float w[N];
      decode<F, N>(source, from, part.first_column + run * N, w);
      store<N>(to + run * N, w);
    }
    if (run < last) {
      for (uint column = run * N; column < columns; ++column) {
        float w;
        decode<F, 1>(source, from, part.first_column + column, &w);
        to[column] = T(w);
      }
    }
  }
}
