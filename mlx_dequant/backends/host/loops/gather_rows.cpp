// out[i, columns] = row ids[i] of the matrix. A call does i from begin to end - 1.

template <typename F, typename T, typename S>
static inline void gather_rows(const S& loader, const int* ids, T* __restrict out,
                               const LaunchParams& p, size_t begin, size_t end) {
  const uint N = 32;
  const uint columns = p.columns;
  for (size_t i = begin; i < end; ++i) {
    T* to = out + i * columns;
    uint column = 0;
    for (; column + N <= columns; column += N) {
      float w[N];
      decode<F, N>(loader, uint(ids[i]), column, w);
      store<N>(to + column, w);
    }
    for (; column < columns; ++column) {
      float w;
      decode<F, 1>(loader, uint(ids[i]), column, &w);
      to[column] = T(w);
    }
  }
}
