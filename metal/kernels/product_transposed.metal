// out[splits, vectors, columns] = x[vectors, rows] times the matrix, accumulated in float32
//
// A threadgroup of 256 covers 256 columns, a lane 8 of them. The rows go round in chunks of 8, the
// 8 that a GPTQ word packs, over the 8 simdgroups of each of `splits` threadgroups; who asks for
// more than one split adds them up.

template <typename F, typename T, uint M, typename X, typename S>
inline void product_transposed(thread const S& source, device const X* x, device T* out,
                               device const uint* sizes, threadgroup float* scratch,
                               uint threadgroup_index, uint thread_index) {
  const uint N = 8;
  const uint chunk = 8;
  uint rows = sizes[0];
  uint columns = sizes[1];
  uint vectors = sizes[vectors_at];
  uint splits = sizes[splits_at];
  uint split = threadgroup_index % splits;
  uint first = threadgroup_index / splits * 32 * N;
  uint column = first + thread_index % 32 * N;
  uint simdgroup = thread_index / 32;

  float sum[M][N];
  for (uint m = 0; m < M; ++m) {
    for (uint i = 0; i < N; ++i) sum[m][i] = 0.0f;
  }
  for (uint at = (split * 8 + simdgroup) * chunk; at < rows; at += splits * 8 * chunk) {
#pragma unroll
    for (uint r = 0; r < chunk; ++r) {
      uint row = at + r;
      if (row >= rows || column >= columns) continue;
      float w[N];
      if (column + N <= columns) {
        decode<F, N>(source, row, column, w);
      } else {
        for (uint i = 0; i < N; ++i) {
          w[i] = 0.0f;
          if (column + i < columns) decode<F, 1>(source, row, column + i, w + i);
        }
      }
      for (uint m = 0; m < M; ++m) {
        float factor = float(x[size_t(m < vectors ? m : 0) * rows + row]);
        for (uint i = 0; i < N; ++i) sum[m][i] += w[i] * factor;
      }
    }
  }
  for (uint m = 0; m < M; ++m) {
    for (uint i = 0; i < N; ++i) scratch[simdgroup * 256 + thread_index % 32 * N + i] = sum[m][i];
    threadgroup_barrier(mem_flags::mem_threadgroup);
    float total = 0.0f;
    for (uint i = 0; i < 8; ++i) total += scratch[i * 256 + thread_index];
    if (m < vectors && first + thread_index < columns) {
      out[(size_t(split) * vectors + m) * columns + first + thread_index] = T(total);
    }
    threadgroup_barrier(mem_flags::mem_threadgroup);
  }
}
