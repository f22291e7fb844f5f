// out[M, rows] += x[M, columns] @ W.T for many rows of x. A call does rows begin to end - 1 of W. A
// panel of W is dequantized into the second-level cache and multiplied by all rows of x, a tile of
// results at a time. Accumulates in float32, in the same order whatever the tiles are.

#include "dequantize.cpp"
#include "vectors.h"

enum {
  PANEL = 1 << 15,               // weights
  DEPTH = 1 << 10,               // columns of a panel: a tile's stay in the first-level cache
  TILE = REGISTERS > 16 ? 4 : 3  // rows of x and of W; their sums stay in registers
};

// out[m, n] += MM rows of x times NN rows of a panel of W.
template <uint MM, uint NN>
static inline void add_tile(const float* x, size_t pitch, const float* w, size_t columns,
                            float* out, size_t out_pitch) {
  vec sum[MM][NN] = {};
  size_t k = 0;
  for (; k + VECTOR <= columns; k += VECTOR) {
    vec right[NN];
#pragma GCC unroll 8
    for (uint n = 0; n < NN; ++n) right[n] = load_vec(w + n * columns + k);
#pragma GCC unroll 8
    for (uint m = 0; m < MM; ++m) {
      const vec left = load_vec(x + m * pitch + k);
#pragma GCC unroll 8
      for (uint n = 0; n < NN; ++n) sum[m][n] += left * right[n];
    }
  }
  for (uint m = 0; m < MM; ++m) {
    for (uint n = 0; n < NN; ++n) {
      float tail = 0;
      for (size_t i = k; i < columns; ++i) tail += x[m * pitch + i] * w[n * columns + i];
      out[m * out_pitch + n] += total(sum[m][n]) + tail;
    }
  }
}

// MM rows of x times all rows of a panel.
template <uint MM>
static inline void add_rows(const float* x, size_t pitch, const float* panel, uint rows,
                            size_t columns, float* out, size_t out_pitch) {
  uint n = 0;
  for (; n + TILE <= rows; n += TILE) {
    add_tile<MM, TILE>(x, pitch, panel + n * columns, columns, out + n, out_pitch);
  }
  for (; n < rows; ++n) add_tile<MM, 1>(x, pitch, panel + n * columns, columns, out + n, out_pitch);
}

template <typename F, typename S>
static inline void qmm_t(const S& loader, const float* x, float* __restrict out,
                         const LaunchParams& p, size_t begin, size_t end) {
  float panel[PANEL];
  for (uint first = 0; first < p.columns; first += DEPTH) {
    LaunchParams part = p;
    part.first_column = first;
    part.end_column = p.columns - first < DEPTH ? p.columns : first + DEPTH;
    const uint columns = part.end_column - first;
    const uint step = PANEL / columns / TILE * TILE;
    for (size_t row = begin; row < end; row += step) {
      const uint rows = uint(end - row < step ? end - row : step);
      part.first_row = uint(row);
      dequantize<F>(loader, panel, part, 0, rows);
      for (uint m = 0; m < p.M;) {
        const float* from = x + size_t(m) * p.columns + first;
        float* to = out + size_t(m) * p.rows + row;
        const uint left = p.M - m;
        m += left < TILE ? left : uint(TILE);
        switch (left) {
          case 1:
            add_rows<1>(from, p.columns, panel, rows, columns, to, p.rows);
            break;
          case 2:
            add_rows<2>(from, p.columns, panel, rows, columns, to, p.rows);
            break;
          case 3:
            add_rows<3>(from, p.columns, panel, rows, columns, to, p.rows);
            break;
          default:
            add_rows<TILE>(from, p.columns, panel, rows, columns, to, p.rows);
        }
      }
    }
  }
}
