// out[M, rows] = x[M, columns] @ W.T for a stored W [rows, columns] and up to BM rows of x, or any
// number of rows if BM is 16, accumulated in float32
//
// SIMDGROUPS simdgroups share BN rows of W. Their 32*SIMDGROUPS lanes take VALUES columns each in
// turn: MAX_VALUES, or 8 where every column has its own scale or the format has none. Weights are
// decoded once for all BM rows of x. A threadgroup of 256 covers 8*BN/SIMDGROUPS rows of W. With a BM
// of 16, neighbouring threadgroups multiply 8 rows of x each.

#include "x_rows.metal"

// Adds this lane's share of BN rows to `sum`. BLOCK codes share a scale, which multiplies their
// sum. For one row of x, a min multiplies the sum of x; an infinite x then gives NaN. For more rows
// of x, that sum costs more than subtracting the min from each code.
template <typename F, uint BM, uint BN, uint VALUES, uint BLOCK, bool ALIGNED, typename X,
          typename S>
inline void add_rows(thread const S& loader, device const X* x, uint row, uint last, uint columns,
                     uint M, uint index, uint stride, thread float* sum) {
  const uint STEP = BLOCK < decoded_at_once ? BLOCK : uint(decoded_at_once);
  for (uint column = index * VALUES; column + VALUES <= columns; column += stride * VALUES) {
    float v[BM][VALUES], x_sum[VALUES / BLOCK];
#pragma unroll
    for (uint m = 0; m < BM; ++m) {
      device const X* from = x + size_t(min(m, M - 1)) * columns;
#pragma unroll
      for (uint i = 0; i < VALUES; i += 8) {
        x_rows<F>::template load<8, ALIGNED>(loader, from, column, i, v[m] + i);
      }
    }
    if (has_min<F>::value && BM == 1) {
#pragma unroll
      for (uint i = 0; i < VALUES; ++i) {
        x_sum[i / BLOCK] = i % BLOCK == 0 ? v[0][i] : x_sum[i / BLOCK] + v[0][i];
      }
    }
#pragma unroll
    for (uint r = 0; r < BN; ++r) {
#pragma unroll
      for (uint i = 0; i < VALUES; i += BLOCK) {
        float dot[BM];
        scaling by;
#pragma unroll
        for (uint j = i; j < i + BLOCK; j += STEP) {
          float q[STEP];
          scaling same = scaled_by(codes<F, STEP>(loader, min(row + r, last), column + j, q));
          if (j == i) by = same;
          if (has_min<F>::value && BM > 1) scale_codes<F, STEP>(by, q);
#pragma unroll
          for (uint m = 0; m < BM; ++m) {
#pragma unroll
            for (uint k = 0; k < STEP; ++k) {
              dot[m] = j + k == i ? q[k] * v[m][i] : dot[m] + q[k] * v[m][j + k];
            }
          }
        }
        if (has_min<F>::value && BM > 1) by = scaled_by(1.0f);
#pragma unroll
        for (uint m = 0; m < BM; ++m) {
          sum[r * BM + m] += by.scale * dot[m];
          if (has_min<F>::value && BM == 1) sum[r * BM + m] -= by.min * x_sum[i / BLOCK];
        }
      }
    }
  }
  uint rest = columns / VALUES * VALUES + index;
  if (whole_columns<F, VALUES>(loader) || rest >= columns) return;
  for (uint r = 0; r < BN; ++r) {
    float w[1];
    decode<F, 1>(loader, min(row + r, last), rest, w);
    for (uint m = 0; m < BM; ++m) {
      device const X* from = x + size_t(min(m, M - 1)) * columns;
      sum[r * BM + m] += w[0] * float(from[x_rows<F>::place(loader, rest)]);
    }
  }
}

template <typename F, typename T, uint BM, uint SIMDGROUPS, uint BN, uint MAX_VALUES, typename X,
          typename S>
inline void qmv(thread const S& loader, device const X* x, device T* out,
                thread const LaunchParams& p, threadgroup float* scratch, uint threadgroup_index,
                uint thread_index) {
  const uint ROWS = BM > 8 ? 8 : BM;  // of x, in a pass
  const uint VALUES = S::layout_kn || F::scale_block < 8 ? 8 : MAX_VALUES;
  const uint BLOCK = VALUES < F::scale_block ? VALUES : F::scale_block;
  static_assert(VALUES % BLOCK == 0, "whole blocks of a scale");
  uint passes = BM > 8 ? (p.M + 7) / 8 : 1;
  uint first = threadgroup_index % passes * 8;
  uint M = p.M - first;
  x += size_t(first) * p.columns;
  out += size_t(first) * p.rows;
  threadgroup_index /= passes;
  uint lane = thread_index % 32;
  uint simdgroup = thread_index / 32;
  uint row = (threadgroup_index * (8 / SIMDGROUPS) + simdgroup / SIMDGROUPS) * BN;
  uint index = simdgroup % SIMDGROUPS * 32 + lane;

  float sum[BN * ROWS];
  for (uint i = 0; i < BN * ROWS; ++i) sum[i] = 0.0f;
  if (row < p.rows) {
    if (is_aligned(x, p.columns)) {
      add_rows<F, ROWS, BN, VALUES, BLOCK, true>(loader, x, row, p.rows - 1, p.columns, M, index,
                                                 32 * SIMDGROUPS, sum);
    } else {
      add_rows<F, ROWS, BN, VALUES, BLOCK, false>(loader, x, row, p.rows - 1, p.columns, M, index,
                                                  32 * SIMDGROUPS, sum);
    }
  }
  for (uint i = 0; i < BN * ROWS; ++i) {
    sum[i] = simd_sum(sum[i]);
    if (SIMDGROUPS > 1 && lane == 0) scratch[simdgroup * BN * ROWS + i] = sum[i];
  }
  if (SIMDGROUPS > 1) threadgroup_barrier(mem_flags::mem_threadgroup);
  if (lane != 0 || simdgroup % SIMDGROUPS != 0) return;
  for (uint r = 0; r < BN; ++r) {
    for (uint m = 0; m < ROWS; ++m) {
      float total = sum[r * ROWS + m];
      for (uint i = 1; i < SIMDGROUPS; ++i) {
        total += scratch[(simdgroup + i) * BN * ROWS + r * ROWS + m];
      }
      if ((BM == 1 || m < M) && row + r < p.rows) out[size_t(m) * p.rows + row + r] = T(total);
    }
  }
}
