// out[vectors, rows] = x[vectors, columns] times the matrix transposed, accumulated in float32
//
// SPLIT simdgroups share a row, each lane taking every (32*SPLIT)-th run of N weights; a run is
// unpacked once for all M vectors. A threadgroup of 256 covers 8/SPLIT rows.

template <typename F, typename T, uint M, uint SPLIT, typename X, typename S>
inline void product(thread const S& source, device const X* x, device T* out,
                    device const uint* sizes, threadgroup float* scratch, uint threadgroup_index,
                    uint thread_index) {
  const uint N = 8;
  uint rows = sizes[0];
  uint columns = sizes[1];
  uint vectors = sizes[vectors_at];
  uint lane = thread_index % 32;
  uint simdgroup = thread_index / 32;
  uint row = threadgroup_index * (8 / SPLIT) + simdgroup / SPLIT;
  uint part = simdgroup % SPLIT * 32 + lane;

  float sum[M];
  for (uint m = 0; m < M; ++m) sum[m] = 0.0f;
  if (row < rows) {
    uint whole = columns / N * N;
    for (uint column = part * N; column < whole; column += 32 * SPLIT * N) {
      float w[N];
      decode<F, N>(source, row, column, w);
      for (uint m = 0; m < M; ++m) {
        float v[N];
        load<N>(x + size_t(m < vectors ? m : 0) * columns + column, v);
        for (uint i = 0; i < N; ++i) sum[m] += w[i] * v[i];
      }
    }
    if (whole + part < columns) {
      float w[1];
      decode<F, 1>(source, row, whole + part, w);
      for (uint m = 0; m < M; ++m) {
        sum[m] += w[0] * float(x[size_t(m < vectors ? m : 0) * columns + whole + part]);
      }
    }
  }
  for (uint m = 0; m < M; ++m) {
    sum[m] = simd_sum(sum[m]);
    if (SPLIT > 1 && lane == 0) scratch[simdgroup * M + m] = sum[m];
  }
  if (SPLIT > 1) threadgroup_barrier(mem_flags::mem_threadgroup);
  if (lane != 0 || simdgroup % SPLIT != 0 || row >= rows) return;
  for (uint m = 0; m < M; ++m) {
    float total = sum[m];
    for (uint i = 1; i < SPLIT; ++i) total += scratch[(simdgroup + i) * M + m];
    if (m < vectors) out[size_t(m) * rows + row] = T(total);
  }
}
