// out[vectors, rows] = x[vectors, columns] times the matrix transposed: this call does rows begin to
// end - 1. Accumulated in float32, in 16 partial sums a result.

template <uint M, typename F, typename S>
static inline void product_of(const S& source, const float* x, float* __restrict out,
                              const uint* sizes, size_t begin, size_t end) {
  const uint N = 32;
  const uint lanes = 16;
  const uint columns = sizes[1];
  for (size_t row = begin; row < end; ++row) {
    float sum[M][lanes] = {};
    uint column = 0;
    for (; column + N <= columns; column += N) {
      float w[N];
      decode<F, N>(source, uint(row), column, w);
      for (uint m = 0; m < M; ++m) {
        const float* from = x + size_t(m) * columns + column;
        for (uint i = 0; i < lanes; ++i) sum[m][i] += w[i] * from[i];
        for (uint i = 0; i < lanes; ++i) sum[m][i] += w[lanes + i] * from[lanes + i];
      }
    }
    for (; column < columns; ++column) {
      float w;
      decode<F, 1>(source, uint(row), column, &w);
      for (uint m = 0; m < M; ++m) sum[m][column % lanes] += w * x[size_t(m) * columns + column];
    }
    for (uint m = 0; m < M; ++m) {
      float total = 0;
      for (uint i = 0; i < lanes; ++i) total += sum[m][i];
      out[size_t(m) * sizes[0] + row] = total;
    }
  }
}

// x has 1, 4 or 16 vectors; the caller pads it with zeros.
template <typename F, typename S>
static inline void product(const S& source, const float* x, float* out, const uint* sizes,
                           size_t begin, size_t end) {
  switch (sizes[vectors_at]) {
    case 1: return product_of<1, F>(source, x, out, sizes, begin, end);
    case 4: return product_of<4, F>(source, x, out, sizes, begin, end);
    case 16: return product_of<16, F>(source, x, out, sizes, begin, end);
  }
}
