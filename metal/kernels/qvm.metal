// out[splits, vectors, columns] = x[vectors, rows] times the matrix, accumulated in float32
//
// A lane covers the loader's qvm_columns, or 8 with more than two vectors; `wide` simdgroups
// lie side by side and make long reads of a row. The rows go round in chunks over the 8/wide
// simdgroups of each of `splits` threadgroups; who asks for more than one adds them up. A chunk is
// as many rows as the format likes; fewer with more vectors, as registers are short. With one or
// two, codes of a chunk are added up and scaled together.

// sum[m][i] += w[i]*v[m]
template <uint M, uint N>
inline void add_products(thread const float* w, thread const float* v, thread float (*sum)[N]) {
#pragma unroll
  for (uint m = 0; m < M; ++m) {
#pragma unroll
    for (uint i = 0; i < N; ++i) sum[m][i] += w[i] * v[m];
  }
}

// Moves the sums of a chunk's codes to `sum`, scaled.
template <uint M, uint N, typename C>
inline void flush_group(thread const C& shared, thread float (*part)[N], thread float (*sum)[N]) {
#pragma unroll
  for (uint m = 0; m < M; ++m) {
    float w[N];
    apply_scale<N>(shared, part[m], w);
#pragma unroll
    for (uint i = 0; i < N; ++i) {
      sum[m][i] += w[i];
      part[m][i] = 0.0f;
    }
  }
}

// v[r][m] = x of vector m and row at + r.
template <uint M, uint R, bool ALIGNED, typename X>
inline void load_chunk(device const X* x, uint at, uint rows, uint vectors, thread float (*v)[M]) {
#pragma unroll
  for (uint m = 0; m < M; ++m) {
    device const X* from = x + size_t(min(m, vectors - 1)) * rows + at;
    float run[R];
    load<R, ALIGNED>(from, run);
#pragma unroll
    for (uint r = 0; r < R; ++r) v[r][m] = run[r];
  }
}

// Adds N columns of rows begin ... begin + R - 1, begin + stride ... to `sum`. TOGETHER: R rows are
// of one group, and x is aligned. Then, with one or two vectors, two chunks are on their way at
// once, as nothing branches between them.
template <typename F, uint M, uint N, uint R, bool TOGETHER, typename X, typename S>
inline void add_column_products(thread const S& loader, device const X* x, uint column, uint begin,
                                uint stride, uint rows, uint vectors, thread float (*sum)[N]) {
  typename S::template group_params<N> shared;
  if (TOGETHER && M <= 2) {
    float part[M][N];
    for (uint m = 0; m < M; ++m) {
      for (uint i = 0; i < N; ++i) part[m][i] = 0.0f;
    }
#pragma unroll 2
    for (uint at = begin; at + R <= rows; at += stride) {
      float v[R][M];
      load_chunk<M, R, TOGETHER>(x, at, rows, vectors, v);
      load_group_params<F, N>(loader, group_at<F>(loader, at), column, shared);
      float q[R * N];
      codes<F, N, R>(loader, shared, at, column, q);
#pragma unroll
      for (uint r = 0; r < R; ++r) add_products<M, N>(q + r * N, v[r], part);
      flush_group<M, N>(shared, part, sum);
    }
  } else {
    uint group = ~0u;
    for (uint at = begin; at + R <= rows; at += stride) {
      float v[R][M];
      load_chunk<M, R, TOGETHER>(x, at, rows, vectors, v);
      if (TOGETHER && group_at<F>(loader, at) != group) {
        group = group_at<F>(loader, at);
        load_group_params<F, N>(loader, group, column, shared);
      }
#pragma unroll
      for (uint r = 0; r < R; ++r) {
        float w[N];
        if (!TOGETHER) load_group_params<F, N>(loader, group_at<F>(loader, at + r), column, shared);
        codes<F, N, 1>(loader, shared, at + r, column, w);
        apply_scale<N>(shared, w, w);
        add_products<M, N>(w, v[r], sum);
      }
    }
  }
  for (uint row = rows / R * R + begin / R; row < rows; row += stride / R) {
    float v[1][M];
    load_chunk<M, 1, false>(x, row, rows, vectors, v);
    float w[N];
    decode<F, N>(loader, row, column, w);
    add_products<M, N>(w, v[0], sum);
  }
}

template <typename F, typename T, uint M, typename X, typename S>
inline void qvm(thread const S& loader, device const X* x, device T* out, device const uint* sizes,
                threadgroup float* scratch, uint threadgroup_index, uint thread_index) {
  const uint N = M <= 2 ? uint(S::qvm_columns) : 8;
  const uint wide = 4;
  const uint across = wide * 32 * N;
  const uint chunk = M > 4 ? 1 : M > 2 ? 8 : uint(S::qvm_rows);
  uint rows = sizes[0];
  uint columns = sizes[1];
  uint vectors = sizes[vectors_at];
  uint splits = sizes[splits_at];
  uint split = threadgroup_index % splits;
  uint simdgroup = thread_index / 32;
  uint first = threadgroup_index / splits * across;
  uint column = first + (simdgroup % wide * 32 + thread_index % 32) * N;

  float sum[M][N];
  for (uint m = 0; m < M; ++m) {
    for (uint i = 0; i < N; ++i) sum[m][i] = 0.0f;
  }
  const uint deep = 8 / wide;
  uint begin = (split * deep + simdgroup / wide) * chunk;
  uint stride = splits * deep * chunk;
  bool aligned = rows % 8 == 0 && is_aligned(x);
  if (column + N <= columns && aligned && share_group<F, chunk>(loader)) {
    add_column_products<F, M, N, chunk, true>(loader, x, column, begin, stride, rows, vectors, sum);
  } else if (column + N <= columns) {
    add_column_products<F, M, N, chunk, false>(loader, x, column, begin, stride, rows, vectors,
                                               sum);
  } else if (column < columns) {
    for (uint at = begin; at < rows; at += stride) {
      for (uint row = at; row < min(at + chunk, rows); ++row) {
#pragma unroll
        for (uint i = 0; i < N; ++i) {
          if (column + i >= columns) continue;
          float w[1];
          decode<F, 1>(loader, row, column + i, w);
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
    for (uint i = 0; i < N; ++i) scratch[thread_index * N + i] = sum[m][i];
    threadgroup_barrier(mem_flags::mem_threadgroup);
    for (uint k = thread_index; k < across; k += 256) {
      float total = 0.0f;
      for (uint i = 0; i < deep; ++i) total += scratch[i * across + k];
      if (m < vectors && first + k < columns) {
        out[(size_t(split) * vectors + m) * columns + first + k] = T(total);
      }
    }
    threadgroup_barrier(mem_flags::mem_threadgroup);
  }
}
