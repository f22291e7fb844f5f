// out[i, rows] = column ids[i] of the matrix. A call does i from begin to end - 1.

template <typename F, typename T, typename S>
static inline void gather_columns(const S& loader, const int* ids, T* __restrict out,
                                  const LaunchParams& p, size_t begin, size_t end) {
  const uint rows = p.rows;
  for (size_t i = begin; i < end; ++i) {
    for (uint row = 0; row < rows; ++row) {
      float w;
      decode<F, 1>(loader, row, uint(ids[i]), &w);
      out[i * rows + row] = T(w);
    }
  }
}
