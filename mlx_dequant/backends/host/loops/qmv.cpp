// out[rows] = W @ x[columns] for one row of x. A call does rows begin to end - 1 of W. Accumulates
// in float32, in 32 partial sums for each result.

#include "vectors.h"

enum { RUN = 32, VECTORS = RUN / VECTOR };

// sum += the 32 weights of `row` from `column` on, times x.
template <typename F, typename S>
static inline void add_run(const S& loader, uint row, uint column, const float* x,
                           vec (&sum)[VECTORS]) {
  float w[RUN];
  decode<F, RUN>(loader, row, column, w);
#pragma GCC unroll 8
  for (uint i = 0; i < VECTORS; ++i) {
    sum[i] += load_vec(w + i * VECTOR) * load_vec(x + column + i * VECTOR);
  }
}

template <typename F, typename S>
static inline void qmv(const S& loader, const float* x, float* __restrict out,
                       const LaunchParams& p, size_t begin, size_t end) {
  const uint runs = 8;  // as many as fill the largest blocks, so shared scales decode once
  const uint columns = p.columns;
  for (size_t row = begin; row < end; ++row) {
    vec sum[VECTORS] = {};
    uint column = 0;
    for (; column + RUN * runs <= columns; column += RUN * runs) {
#pragma GCC unroll 8
      for (uint run = 0; run < runs; ++run) {
        add_run<F>(loader, uint(row), column + run * RUN, x, sum);
      }
    }
    for (; column + RUN <= columns; column += RUN) add_run<F>(loader, uint(row), column, x, sum);
    float tail = 0;
    for (; column < columns; ++column) {
      float w;
      decode<F, 1>(loader, uint(row), column, &w);
      tail += w * x[column];
    }
    for (uint i = 1; i < VECTORS; ++i) sum[0] += sum[i];
    out[row] = tail + total(sum[0]);
  }
}
