// out[vectors, rows] = x[vectors, columns] times the matrix transposed, accumulated in float32
//
// SPLIT simdgroups share ROWS rows, each lane taking every (32*SPLIT)-th run of MOST weights, or of
// 8 where columns have scales of their own or there are no scales. A run is unpacked once for all M
// vectors. A threadgroup of 256 covers 8*ROWS/SPLIT rows.

// Adds this lane's part of ROWS rows to `sum`. RUN codes share a scale, which comes last. So does a
// min for a single vector, times a sum of x: an infinite x then gives NaN. For more vectors that
// sum costs more than taking the min off each code.
template <typename F, uint M, uint ROWS, uint N, uint RUN, bool ALIGNED, typename X, typename S>
inline void add_row_products(thread const S& loader, device const X* x, uint row, uint last,
                             uint columns, uint vectors, uint part, uint stride,
                             thread float* sum) {
  for (uint column = part * N; column + N <= columns; column += stride * N) {
    float q[ROWS][N];
    scaling by[ROWS][N / RUN];
#pragma unroll
    for (uint r = 0; r < ROWS; ++r) {
#pragma unroll
      for (uint i = 0; i < N; i += RUN) {
        by[r][i / RUN] = scaled_by(codes<F, RUN>(loader, min(row + r, last), column + i, q[r] + i));
        if (has_min<F>::value && M > 1) {
          scale_codes<F, RUN>(by[r][i / RUN], q[r] + i);
          by[r][i / RUN] = scaled_by(1.0f);
        }
      }
    }
#pragma unroll
    for (uint m = 0; m < M; ++m) {
      device const X* from = x + size_t(min(m, vectors - 1)) * columns + column;
      float dot[ROWS], all;
#pragma unroll
      for (uint i = 0; i < N; i += 8) {
        float v[8];
        load<8, ALIGNED>(from + i, v);
        if (has_min<F>::value && M == 1) {
          for (uint k = 0; k < 8; ++k) all = (i + k) % RUN == 0 ? v[k] : all + v[k];
        }
#pragma unroll
        for (uint r = 0; r < ROWS; ++r) {
          for (uint k = 0; k < 8; ++k) {
            if ((i + k) % RUN == 0) dot[r] = 0.0f;
            dot[r] += q[r][i + k] * v[k];
            if ((i + k + 1) % RUN != 0) continue;
            sum[r * M + m] += by[r][(i + k) / RUN].scale * dot[r];
            if (has_min<F>::value && M == 1) sum[r * M + m] -= by[r][(i + k) / RUN].min * all;
          }
        }
      }
    }
  }
  uint rest = columns / N * N + part;
  if (rest >= columns) return;
  for (uint r = 0; r < ROWS; ++r) {
    float w[1];
    decode<F, 1>(loader, min(row + r, last), rest, w);
    for (uint m = 0; m < M; ++m) {
      sum[r * M + m] += w[0] * float(x[size_t(min(m, vectors - 1)) * columns + rest]);
    }
  }
}

template <typename F, typename T, uint M, uint SPLIT, uint ROWS, uint MOST, typename X, typename S>
inline void qmv(thread const S& loader, device const X* x, device T* out, device const uint* sizes,
                threadgroup float* scratch, uint threadgroup_index, uint thread_index) {
  const uint N = S::layout_kn || F::scale_block < 8 ? 8 : MOST;
  const uint RUN = N < F::scale_block ? N : F::scale_block;
  static_assert(N % RUN == 0, "whole runs");
  uint rows = sizes[0];
  uint columns = sizes[1];
  uint vectors = sizes[vectors_at];
  uint lane = thread_index % 32;
  uint simdgroup = thread_index / 32;
  uint row = (threadgroup_index * (8 / SPLIT) + simdgroup / SPLIT) * ROWS;
  uint part = simdgroup % SPLIT * 32 + lane;

  float sum[ROWS * M];
  for (uint i = 0; i < ROWS * M; ++i) sum[i] = 0.0f;
  if (row < rows) {
    if (columns % 8 == 0 && is_aligned(x)) {
      add_row_products<F, M, ROWS, N, RUN, true>(loader, x, row, rows - 1, columns, vectors, part,
                                                 32 * SPLIT, sum);
    } else {
      add_row_products<F, M, ROWS, N, RUN, false>(loader, x, row, rows - 1, columns, vectors, part,
                                                  32 * SPLIT, sum);
    }
  }
  for (uint i = 0; i < ROWS * M; ++i) {
    sum[i] = simd_sum(sum[i]);
    if (SPLIT > 1 && lane == 0) scratch[simdgroup * ROWS * M + i] = sum[i];
  }
  if (SPLIT > 1) threadgroup_barrier(mem_flags::mem_threadgroup);
  if (lane != 0 || simdgroup % SPLIT != 0) return;
  for (uint r = 0; r < ROWS; ++r) {
    for (uint m = 0; m < M; ++m) {
      float total = sum[r * M + m];
      for (uint i = 1; i < SPLIT; ++i) total += scratch[(simdgroup + i) * ROWS * M + r * M + m];
      if (m < vectors && row + r < rows) out[size_t(m) * rows + row + r] = T(total);
    }
  }
}
