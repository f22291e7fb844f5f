// out[vectors, rows] = x[vectors, columns] times the matrix transposed: this call does rows begin
// to end - 1. Accumulated in float32, in 32 partial sums a result, or 16 where there are many.

typedef float lanes __attribute__((vector_size(64)));

static inline lanes load_lanes(const float* from) {
  lanes result;
  memcpy(&result, from, sizeof result);
  return result;
}

template <uint M, typename F, typename S>
static inline void product_of(const S& source, const float* x, float* __restrict out,
                              const uint* sizes, size_t begin, size_t end) {
  const uint N = 32;
  const uint halves = M > 4 ? 1 : 2;
  const uint columns = sizes[1];
  for (size_t row = begin; row < end; ++row) {
    lanes sum[M][halves] = {};
    uint column = 0;
    for (; column + N <= columns; column += N) {
      float w[N];
      decode<F, N>(source, uint(row), column, w);
      const lanes first = load_lanes(w);
      const lanes second = load_lanes(w + 16);
#pragma GCC unroll 8
      for (uint m = 0; m < M; ++m) {
        const float* from = x + size_t(m) * columns + column;
        sum[m][0] += first * load_lanes(from);
        sum[m][halves - 1] += second * load_lanes(from + 16);
      }
    }
    float tail[M] = {};
    for (; column < columns; ++column) {
      float w;
      decode<F, 1>(source, uint(row), column, &w);
      for (uint m = 0; m < M; ++m) tail[m] += w * x[size_t(m) * columns + column];
    }
    for (uint m = 0; m < M; ++m) {
      const lanes both = halves == 2 ? sum[m][0] + sum[m][1] : sum[m][0];
      float total = tail[m];
      for (uint i = 0; i < 16; ++i) total += both[i];
      out[size_t(m) * sizes[0] + row] = total;
    }
  }
}

// x has 1, 4 or 8 vectors; the caller pads it with zeros.
template <typename F, typename S>
static inline void product(const S& source, const float* x, float* out, const uint* sizes,
                           size_t begin, size_t end) {
  switch (sizes[vectors_at]) {
    case 1:
      return product_of<1, F>(source, x, out, sizes, begin, end);
    case 4:
      return product_of<4, F>(source, x, out, sizes, begin, end);
    case 8:
      return product_of<8, F>(source, x, out, sizes, begin, end);
  }
}
