// out[rows] = W @ x[columns] for one row of x. A call does rows begin to end - 1 of W. Accumulates
// in float32: where codes fill several vectors, their products are added up before they are scaled.

#include "ahead.h"
#include "vectors.h"

enum {
  RUN = 32,
  ROWS = 2  // at a time: they share x, and one's sums need not wait for one another
};

struct gguf_loader;

// Floats that are loaded as one. Only GGUF's codes are bytes: of other codes 16 at once are slower
// than 8, with clang as well.
template <typename S>
struct loaded {
  enum { at_once = VECTOR < 8 ? int(VECTOR) : 8 };
};
template <>
struct loaded<gguf_loader> {
  enum { at_once = VECTOR };
};

// q[0..N) = N codes of a row; or N weights, where fewer share a scale.
template <typename F, uint N, typename S>
inline scaling scaled_codes(const S& loader, uint row, uint column, float* q) {
  if constexpr (F::scale_block < N) {
    decode<F, N>(loader, row, column, q);
    return scaled_by(1.0f);
  } else {
    return scaled_by(row_codes<F, N>(loader, row, column, q));
  }
}

// sum[r] += the 32 weights of row rows[r] from `column` on, times x.
template <typename F, uint N, typename S>
static inline void add_run(const S& loader, const uint* rows, uint column, const float* x,
                           typename vector_of<N>::type (&sum)[ROWS]) {
  typedef typename vector_of<N>::type vector;
  const uint shared = F::scale_block < RUN ? F::scale_block : uint(RUN);
  const uint block = shared < N ? N : shared;
#pragma GCC unroll 8
  for (uint i = 0; i < RUN; i += block) {
    vector v[block / N];
#pragma GCC unroll 8
    for (uint k = 0; k < block / N; ++k) v[k] = load_floats<N>(x + column + i + k * N);
    vector x_sum = v[0];
#pragma GCC unroll 8
    for (uint k = 1; k < block / N; ++k) x_sum += v[k];
#pragma GCC unroll 8
    for (uint r = 0; r < ROWS; ++r) {
      if (i == 0) ask_for<F>(loader, rows[r] + AHEAD, column);
      float q[block];
      // With |, unlike with +, g++ sees that all runs of a block share its head.
      const scaling by = scaled_codes<F, block>(loader, rows[r], column | i, q);
      if (has_min<F>::value && block == N) {
        sum[r] += (load_floats<N>(q) * by.scale - by.min) * v[0];
      } else {
        vector dot = load_floats<N>(q) * v[0];
#pragma GCC unroll 8
        for (uint k = 1; k < block / N; ++k) dot += load_floats<N>(q + k * N) * v[k];
        sum[r] += dot * by.scale;
        if (has_min<F>::value) sum[r] -= x_sum * by.min;
      }
    }
  }
}

template <typename F, typename S>
static inline void qmv(const S& loader, const float* x, float* __restrict out,
                       const LaunchParams& p, size_t begin, size_t end) {
  const uint shared = F::scale_block < 8 ? 8 : F::scale_block;
  const uint N = loaded<S>::at_once < shared ? uint(loaded<S>::at_once) : shared;
  const uint runs = 8;  // as many as fill the largest blocks, so shared scales decode once
  const uint columns = p.columns;
  for (size_t row = begin; row < end; row += ROWS) {
    uint rows[ROWS];
    for (uint r = 0; r < ROWS; ++r) rows[r] = uint(row + r < end ? row + r : end - 1);
    typename vector_of<N>::type sum[ROWS] = {};
    uint run = 0;
    for (uint i = 0; i < columns / (RUN * runs); ++i) {
#pragma GCC unroll 8
      for (uint j = 0; j < runs; ++j, ++run) {
        add_run<F, N>(loader, rows, i * runs * RUN | j * RUN, x, sum);
      }
    }
    for (; run < columns / RUN; ++run) add_run<F, N>(loader, rows, run * RUN, x, sum);
    for (uint r = 0; r < ROWS; ++r) {
      float tail = 0;
      for (uint column = run * RUN; column < columns; ++column) {
        float w;
        decode<F, 1>(loader, rows[r], column, &w);
        tail += w * x[column];
      }
      out[rows[r]] = tail + total(sum[r]);
    }
  }
}
