// out[splits, vectors, columns] = x[vectors, rows] times the matrix, accumulated in float32
//
// A threadgroup of 256 covers 256 columns, a lane 8 of them. The rows go round over the 8
// simdgroups of each of `splits` threadgroups, who asks for more than one split adds them up. With
// few vectors they go in chunks of 8, the 8 that a word of 4-bit GPTQ codes packs; with many,
// registers are short.

template <typename F, typename T, uint M, typename X, typename S>
inline void product_transposed(thread const S& source, device const X* x, device T* out,
                               device const uint* sizes, threadgroup float* scratch,
                               uint threadgroup_index, uint thread_index) {
  const uint N = 8;
  const uint chunk = M > 4 ? 1 : 8;
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
  uint begin = (split * 8 + simdgroup) * chunk;
  uint stride = splits * 8 * chunk;
  if (column + N <= columns) {
    typename S::template constants<N> shared;
    uint group = ~0u;
    bool aligned = rows % 8 == 0 && is_aligned(x);
    for (uint at = begin; at < rows; at += stride) {
      float v[M][chunk];
#pragma unroll
      for (uint m = 0; m < M; ++m) {
        device const X* from = x + size_t(min(m, vectors - 1)) * rows + at;
        if (chunk == 8 && aligned) {
          load<chunk, true>(from, v[m]);
        } else {
          for (uint r = 0; r < chunk; ++r) v[m][r] = at + r < rows ? float(from[r]) : 0.0f;
        }
      }
#pragma unroll
      for (uint r = 0; r < chunk; ++r) {
        uint row = min(at + r, rows - 1);
        uint next = group_at(source, row);
        if (next != group) {
          load_constants<F, N>(source, next, column, shared);
          group = next;
        }
        float w[N];
        decode<F, N>(source, shared, row, column, w);
#pragma unroll
        for (uint m = 0; m < M; ++m) {
          for (uint i = 0; i < N; ++i) sum[m][i] += w[i] * v[m][r];
        }
      }
    }
  } else {
    for (uint at = begin; at < rows; at += stride) {
      for (uint row = at; row < min(at + chunk, rows); ++row) {
#pragma unroll
        for (uint i = 0; i < N; ++i) {
          if (column + i >= columns) continue;
          float w[1];
          decode<F, 1>(source, row, column + i, w);
#pragma unroll
          for (uint m = 0; m < M; ++m) {
            sum[m][i] += w[0] * float(x[size_t(min(m, vectors - 1)) * rows + row]);
          }
        }
      }
    }
  }
#pragma unroll
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
