// out[M, rows] = x[M, columns] @ W.T for a stored W [rows, columns] and up to BM rows of x, or any
// number of rows if BM is 16, accumulated in float32
//
// SIMDGROUPS simdgroups share BN rows of W. Their 32*SIMDGROUPS lanes take VALUES columns each in
// turn: MAX_VALUES, or 8 where every column has its own scale or the format has none. Weights are
// decoded once for all BM rows of x. A threadgroup of 256 covers 8*BN/SIMDGROUPS rows of W. With a BM
// of 16, neighbouring threadgroups multiply 8 rows of x each.

#include "x_rows.metal"

// Whether a row of W always has a multiple of N columns. Loaders that know it overload this.
template <typename F, uint N, typename S>
inline bool whole_columns(thread const S&) {
  return false;
}

// A lane takes VALUES columns: its code i is at first(column) + offset(i). Where bytes hold codes of
// several runs of 32 columns, a lane takes as many of each run as there are, so that lanes share no
// bytes.
template <typename F, uint VALUES>
struct lane_columns {
  enum {
    runs = runs_apart && VALUES == 32 ? uint(runs_of_bytes<F>::value) : 1,
    run = VALUES / runs
  };
  static inline uint first(uint column) {
    return column / (32 * runs) * (32 * runs) + column % (32 * runs) / runs;
  }
  static inline uint offset(uint i) { return i / run * 32 + i % run; }
};

// Adds this lane's share of BN rows to `sum`, for the BM rows of x from `first` on, which are read
// before W. BLOCK codes share a scale, which multiplies their sum. A min multiplies the sum of x; an
// infinite x then gives NaN.
struct x_first {
  template <typename F, uint BM, uint BN, uint VALUES, uint BLOCK, bool ALIGNED, typename X,
            typename S>
  static inline void add(thread const S& loader, device const X* x, uint row, uint last,
                         uint columns, uint first, uint M, uint index, uint stride,
                         thread float* sum) {
    const uint STEP = BLOCK < decoded_at_once ? BLOCK : uint(decoded_at_once);
    for (uint column = index * VALUES; column + VALUES <= columns; column += stride * VALUES) {
      const uint at = lane_columns<F, VALUES>::first(column);
      float v[BM][VALUES], x_sum[BM][VALUES / BLOCK];
#pragma unroll
      for (uint m = 0; m < BM; ++m) {
        uint from = row_place<BM>(first, m, M, columns);
#pragma unroll
        for (uint i = 0; i < VALUES; i += 8) {
          x_rows<F>::template load<8, ALIGNED>(
              loader, x, from, at + lane_columns<F, VALUES>::offset(i), 0, v[m] + i);
        }
        if (has_min<F>::value) {
#pragma unroll
          for (uint i = 0; i < VALUES; ++i) {
            x_sum[m][i / BLOCK] = i % BLOCK == 0 ? v[m][i] : x_sum[m][i / BLOCK] + v[m][i];
          }
        }
      }
      auto shared = share_rows<F, BN>(loader, row, last, column);
#pragma unroll
      for (uint r = 0; r < BN; ++r) {
#pragma unroll
        for (uint i = 0; i < VALUES; i += BLOCK) {
          float dot[BM];
          scaling by;
#pragma unroll
          for (uint k = 0; k < BLOCK; k += STEP) {
            float q[STEP];
            scaling same = shared_codes<F, STEP>(loader, shared, row, r, last,
                                                 at + lane_columns<F, VALUES>::offset(i + k), q);
            if (k == 0) by = same;
#pragma unroll
            for (uint m = 0; m < BM; ++m) {
#pragma unroll
              for (uint j = 0; j < STEP; ++j)
                dot[m] = k + j == 0 ? q[0] * v[m][i] : dot[m] + q[j] * v[m][i + k + j];
            }
          }
#pragma unroll
          for (uint m = 0; m < BM; ++m) {
            sum[r * BM + m] += by.scale * dot[m];
            if (has_min<F>::value) sum[r * BM + m] -= by.min * x_sum[m][i / BLOCK];
          }
        }
      }
    }
  }
};

// The same for more rows of x, which are read in turn after W, and for formats of less than 8 codes a
// scale. A min is subtracted from each code: that costs less than the sums of all rows of x.
struct x_in_turn {
  template <typename F, uint BM, uint BN, uint VALUES, uint BLOCK, bool ALIGNED, typename X,
            typename S>
  static inline void add(thread const S& loader, device const X* x, uint row, uint last,
                         uint columns, uint first, uint M, uint index, uint stride,
                         thread float* sum) {
    const uint STEP = BM > 4 || VALUES == 8 ? 8 : uint(inputs_at_once);
    for (uint column = index * VALUES; column + VALUES <= columns; column += stride * VALUES) {
      const uint at = lane_columns<F, VALUES>::first(column);
      float q[BN][VALUES];
      scaling by[BN][VALUES / BLOCK];
      auto shared = share_rows<F, BN>(loader, row, last, column);
#pragma unroll
      for (uint r = 0; r < BN; ++r) {
#pragma unroll
        for (uint i = 0; i < VALUES; i += BLOCK) {
          by[r][i / BLOCK] = shared_codes<F, BLOCK>(
              loader, shared, row, r, last, at + lane_columns<F, VALUES>::offset(i), q[r] + i);
          if (has_min<F>::value) {
            scale_codes<F, BLOCK>(by[r][i / BLOCK], q[r] + i);
            by[r][i / BLOCK] = scaled_by(1.0f);
          }
        }
      }
#pragma unroll
      for (uint m = 0; m < BM; ++m) {
        uint from = row_place<BM>(first, m, M, columns);
        float dot[BN];
#pragma unroll
        for (uint i = 0; i < VALUES; i += STEP) {
          float v[STEP];
#pragma unroll
          for (uint k = 0; k < STEP; k += loaded_at_once) {
            x_rows<F>::template load<loaded_at_once, ALIGNED>(
                loader, x, from, at, lane_columns<F, VALUES>::offset(i + k), v + k);
          }
#pragma unroll
          for (uint r = 0; r < BN; ++r) {
#pragma unroll
            for (uint k = 0; k < STEP; ++k) {
              if (has_min<F>::value) {
                sum[r * BM + m] += q[r][i + k] * v[k];
                continue;
              }
              if ((i + k) % BLOCK == 0) dot[r] = 0.0f;
              dot[r] += q[r][i + k] * v[k];
              if ((i + k + 1) % BLOCK == 0)
                sum[r * BM + m] += by[r][(i + k) / BLOCK].scale * dot[r];
            }
          }
        }
      }
    }
  }
};

// Adds this lane's share of all columns.
template <typename F, uint BM, uint BN, uint VALUES, uint BLOCK, typename LOOP, bool ALIGNED,
          typename X, typename S>
inline void add_columns(thread const S& loader, device const X* x, uint row,
                        thread const LaunchParams& p, uint first, uint index, uint simdgroups,
                        thread float* sum) {
  uint M = p.M, columns = p.columns, last = p.rows - 1, stride = 32 * simdgroups;
  LOOP::template add<F, BM, BN, VALUES, BLOCK, ALIGNED>(loader, x, row, last, columns, first, M,
                                                        index, stride, sum);
  uint rest = columns / VALUES * VALUES + index;
  if (whole_columns<F, VALUES>(loader) || rest >= columns) return;
  for (uint r = 0; r < BN; ++r) {
    uint at = min(row + r, last);
    auto shared = share_rows<F, 1>(loader, at, at, rest);
    float w[1];
    scale_codes<F, 1>(shared_codes<F, 1>(loader, shared, at, 0, at, rest, w), w);
    for (uint m = 0; m < BM; ++m) {
      uint from = row_place<BM>(first, m, M, columns);
      sum[r * BM + m] += w[0] * float(x[from + x_rows<F>::place(loader, rest)]);
    }
  }
}

// The ROWS rows of x from `first` on, and of the result from `to` on.
template <typename F, typename T, uint ROWS, uint SIMDGROUPS, uint BN, uint MAX_VALUES,
          typename LOOP, typename X, typename S>
inline void qmv_pass(thread const S& loader, device const X* x, device T* out,
                     thread const LaunchParams& p, threadgroup float* scratch, uint first, uint to,
                     uint threadgroup_index, uint thread_index) {
  const uint VALUES = S::layout_kn || F::scale_block < 8 ? 8 : MAX_VALUES;
  const uint RUN = lane_columns<F, VALUES>::run;
  const uint BLOCK = RUN < F::scale_block ? RUN : uint(F::scale_block);
  static_assert(VALUES % BLOCK == 0, "whole blocks of a scale");
  uint lane = thread_index % 32;
  uint simdgroup = thread_index / 32;
  uint row = (threadgroup_index * (8 / SIMDGROUPS) + simdgroup / SIMDGROUPS) * BN;
  uint index = simdgroup % SIMDGROUPS * 32 + lane;

  float sum[BN * ROWS];
  for (uint i = 0; i < BN * ROWS; ++i) sum[i] = 0.0f;
  if (row < p.rows) {
    if (is_aligned(x, p.columns)) {
      add_columns<F, ROWS, BN, VALUES, BLOCK, LOOP, true>(loader, x, row, p, first, index,
                                                          SIMDGROUPS, sum);
    } else {
      add_columns<F, ROWS, BN, VALUES, BLOCK, LOOP, false>(loader, x, row, p, first, index,
                                                           SIMDGROUPS, sum);
    }
  }
  // Lane r * ROWS + m gets the sum of row r and row m of x.
  const uint SUMS = BN * ROWS;
  static_assert(SUMS <= 32, "a lane for each sum");
  float total = 0.0f;
#pragma unroll
  for (uint i = 0; i < SUMS; ++i) {
    float one = simd_sum(sum[i]);
    total = lane == i ? one : total;
  }
  if (SIMDGROUPS > 1) {
    if (lane < SUMS) scratch[simdgroup * SUMS + lane] = total;
    threadgroup_barrier(mem_flags::mem_threadgroup);
  }
  uint r = lane / ROWS, m = lane % ROWS;
  if (lane >= SUMS || simdgroup % SIMDGROUPS != 0 || row + r >= p.rows) return;
  for (uint i = 1; i < SIMDGROUPS; ++i) total += scratch[(simdgroup + i) * SUMS + lane];
  if (ROWS == 1 || to + m < p.M) {
    out[(to + m) * p.rows + results<F>::place(loader, row + r)] = T(total);
  }
}

template <typename F, typename T, uint BM, uint SIMDGROUPS, uint BN, uint MAX_VALUES, typename LOOP,
          typename X, typename S>
inline void qmv(thread const S& loader, device const X* x, device T* out,
                thread const LaunchParams& p, threadgroup float* scratch, uint threadgroup_index,
                uint thread_index) {
  const uint ROWS = BM > 8 ? 8 : BM;  // of x, in a pass
  uint passes = BM > 8 ? (p.M + 7) / 8 : 1;
  uint first = threadgroup_index % passes * 8;
  qmv_pass<F, T, ROWS, SIMDGROUPS, BN, MAX_VALUES, LOOP>(loader, x, out, p, scratch, first, first,
                                                         threadgroup_index / passes, thread_index);
}
