// out[M, columns] += x[M, rows] @ W for many rows of x. A call does columns 32 * begin to
// 32 * end - 1. A panel of W, 32 columns wide, is dequantized into the first-level cache and
// multiplied by all rows of x, a tile of results at a time. Accumulates in float32.

#include "vectors.h"

enum {
  RUN = 32,
  DEPTH = 128,                     // rows of a panel
  TILE_M = 6,                      // rows of x
  TILE_N = REGISTERS > 16 ? 4 : 2  // vectors of results beside each other
};

// The weights of a panel: rows `row` to row + rows - 1, columns `column` to column + columns - 1.
template <typename F, typename S>
static inline void load_panel(const S& loader, uint row, uint rows, uint column, uint columns,
                              float* panel) {
  typename S::template group_params<RUN> shared;
  uint group = ~0u;
#pragma clang loop vectorize(disable)
  for (uint i = 0; i < rows; ++i) {
    if (columns < RUN) {
      for (uint j = 0; j < columns; ++j)
        decode<F, 1>(loader, row + i, column + j, panel + i * columns + j);
      continue;
    }
    const uint next = group_at<F>(loader, row + i);
    if (next != group) load_group_params<F, RUN>(loader, next, column, shared);
    group = next;
    float q[RUN];
    group_codes<F, RUN, 1>(loader, shared, row + i, column, q);
    apply_scale<RUN>(shared, q, panel + i * RUN);
  }
}

// out[m, column] += MM rows of x times NN vectors of each of a panel's rows.
template <uint MM, uint NN>
static inline void add_tile(const float* x, size_t pitch, const float* w, size_t rows, float* out,
                            size_t out_pitch) {
  vec sum[MM][NN] = {};
  for (size_t k = 0; k < rows; ++k) {
    vec right[NN];
#pragma GCC unroll 8
    for (uint i = 0; i < NN; ++i) right[i] = load_vec(w + k * RUN + i * VECTOR);
#pragma GCC unroll 8
    for (uint m = 0; m < MM; ++m) {
      const float left = x[m * pitch + k];
#pragma GCC unroll 8
      for (uint i = 0; i < NN; ++i) sum[m][i] += left * right[i];
    }
  }
#pragma GCC unroll 8
  for (uint m = 0; m < MM; ++m) {
#pragma GCC unroll 8
    for (uint i = 0; i < NN; ++i) {
      float* to = out + m * out_pitch + i * VECTOR;
      store_floats(to, load_vec(to) + sum[m][i]);
    }
  }
}

// MM rows of x times a panel.
template <uint MM>
static inline void add_rows(const float* x, size_t pitch, const float* panel, uint rows,
                            uint columns, float* out, size_t out_pitch) {
  if (columns == RUN) {
    const uint tile = TILE_N * VECTOR < RUN ? TILE_N * VECTOR : uint(RUN);
    for (uint at = 0; at < RUN; at += tile) {
      add_tile<MM, tile / VECTOR>(x, pitch, panel + at, rows, out + at, out_pitch);
    }
    return;
  }
  for (uint m = 0; m < MM; ++m) {
    for (uint at = 0; at < columns; ++at) {
      float sum = 0;
      for (uint k = 0; k < rows; ++k) sum += x[m * pitch + k] * panel[k * columns + at];
      out[m * out_pitch + at] += sum;
    }
  }
}

template <typename F, typename S>
static inline void qmm(const S& loader, const float* x, float* __restrict out,
                       const LaunchParams& p, size_t begin, size_t end) {
  float panel[RUN * DEPTH];
  for (size_t run = begin; run < end; ++run) {
    const uint column = uint(run) * RUN;
    const uint columns = p.columns - column < RUN ? p.columns - column : uint(RUN);
    for (uint row = 0; row < p.rows; row += DEPTH) {
      const uint rows = p.rows - row < DEPTH ? p.rows - row : uint(DEPTH);
      load_panel<F>(loader, row, rows, column, columns, panel);
      for (uint m = 0; m < p.M;) {
        const float* from = x + size_t(m) * p.rows + row;
        float* to = out + size_t(m) * p.columns + column;
        const uint left = p.M - m;
        if (left >= TILE_M) {
          add_rows<TILE_M>(from, p.rows, panel, rows, columns, to, p.columns);
          m += TILE_M;
        } else if (left >= 3) {
          add_rows<3>(from, p.rows, panel, rows, columns, to, p.columns);
          m += 3;
        } else {
          add_rows<1>(from, p.rows, panel, rows, columns, to, p.columns);
          m += 1;
        }
      }
    }
  }
}
