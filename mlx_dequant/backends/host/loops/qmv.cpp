// out[M, rows] = x[M, columns] @ W.T. A call does rows begin to end - 1 of W. Accumulates in
// float32, in 32 partial sums for each result, or 16 with more than four rows of x.

#include "lanes.h"

static inline float total(lanes sums) {
  float partial[16];
  memcpy(partial, &sums, sizeof partial);
  for (uint half = 8; half > 0; half /= 2) {
    for (uint i = 0; i < half; ++i) partial[i] += partial[i + half];
  }
  return partial[0];
}

// sum[m] += the 32 weights of `row` from `column` on, times row m of x.
template <uint M, uint HALVES, typename F, typename S>
static inline void add_run(const S& loader, uint row, uint column, const float* x, uint columns,
                           lanes (&sum)[M][HALVES]) {
  float w[32];
  decode<F, 32>(loader, row, column, w);
  const lanes first = load_lanes(w);
  const lanes second = load_lanes(w + 16);
#pragma GCC unroll 8
  for (uint m = 0; m < M; ++m) {
    const float* from = x + size_t(m) * columns + column;
    sum[m][0] += first * load_lanes(from);
    sum[m][HALVES - 1] += second * load_lanes(from + 16);
  }
}

template <uint M, typename F, typename S>
static inline void qmv_of(const S& loader, const float* x, float* __restrict out,
                          const LaunchParams& p, size_t begin, size_t end) {
  const uint halves = M > 4 ? 1 : 2;
  const uint runs = M > 1 ? 1 : 8;  // 8 fill the largest blocks, so shared scales decode once
  const uint columns = p.columns;
  for (size_t row = begin; row < end; ++row) {
    lanes sum[M][halves] = {};
    for (uint block = 0; block < columns / (32 * runs); ++block) {
#pragma GCC unroll 8
      for (uint run = 0; run < runs; ++run) {
        add_run<M, halves, F>(loader, uint(row), (block * runs + run) * 32, x, columns, sum);
      }
    }
    uint column = columns / (32 * runs) * (32 * runs);
    for (; column + 32 <= columns; column += 32) {
      add_run<M, halves, F>(loader, uint(row), column, x, columns, sum);
    }
    float tail[M] = {};
    for (; column < columns; ++column) {
      float w;
      decode<F, 1>(loader, uint(row), column, &w);
      for (uint m = 0; m < M; ++m) tail[m] += w * x[size_t(m) * columns + column];
    }
    for (uint m = 0; m < M; ++m) {
      const lanes both = halves == 2 ? sum[m][0] + sum[m][1] : sum[m][0];
      out[size_t(m) * p.rows + row] = tail[m] + total(both);
    }
  }
}

// x has 1, 4 or 8 rows; the caller pads x with zeros.
template <typename F, typename S>
static inline void qmv(const S& loader, const float* x, float* out, const LaunchParams& p,
                       size_t begin, size_t end) {
  switch (p.M) {
    case 1:
      return qmv_of<1, F>(loader, x, out, p, begin, end);
    case 4:
      return qmv_of<4, F>(loader, x, out, p, begin, end);
    case 8:
      return qmv_of<8, F>(loader, x, out, p, begin, end);
  }
}
