// out[split_k, M, columns] = x[M, rows] @ W for a stored W [rows, columns] and up to BM rows of x,
// accumulated in float32
//
// A lane covers the loader's qvm_columns columns, or 8 with more than two rows of x. Of a
// threadgroup's eight simdgroups, four lie side by side and read long pieces of a row. The other
// four lie below: these two rows of simdgroups take turns with chunks of W's rows, as do split_k
// threadgroups. split_k_reduce adds up their results. A chunk has the loader's qvm_rows rows, or
// fewer with more rows of x, for want of registers. With one or two rows of x, the codes of a chunk
// are added up before they are scaled.

// sum[m][i] += w[i]*v[m]
template <uint BM, uint VALUES>
inline void add_products(thread const float* w, thread const float* v,
                         thread float (*sum)[VALUES]) {
#pragma unroll
  for (uint m = 0; m < BM; ++m) {
#pragma unroll
    for (uint i = 0; i < VALUES; ++i) sum[m][i] += w[i] * v[m];
  }
}

// Scales the sums of a chunk's codes, adds them to `sum` and clears them.
template <uint BM, uint VALUES, typename C>
inline void flush_group(thread const C& shared, thread float (*partial)[VALUES],
                        thread float (*sum)[VALUES]) {
#pragma unroll
  for (uint m = 0; m < BM; ++m) {
    float w[VALUES];
    apply_scale<VALUES>(shared, partial[m], w);
#pragma unroll
    for (uint i = 0; i < VALUES; ++i) {
      sum[m][i] += w[i];
      partial[m][i] = 0.0f;
    }
  }
}

// v[r][m] = row m of x at input at + r.
template <uint BM, uint CHUNK, bool ALIGNED, typename X>
inline void load_chunk(device const X* x, uint at, uint rows, uint M, thread float (*v)[BM]) {
#pragma unroll
  for (uint m = 0; m < BM; ++m) {
    device const X* from = x + size_t(min(m, M - 1)) * rows + at;
    float values[CHUNK];
    load<CHUNK, ALIGNED>(from, values);
#pragma unroll
    for (uint r = 0; r < CHUNK; ++r) v[r][m] = values[r];
  }
}

// Adds VALUES columns of rows begin ... begin + CHUNK - 1, begin + stride ... to `sum`. TOGETHER:
// the rows of a chunk are of one group, and x is aligned. With one or two rows of x, that loop has
// no branches, so that the loads of two chunks overlap.
template <typename F, uint BM, uint VALUES, uint CHUNK, bool TOGETHER, typename X, typename S>
inline void add_columns(thread const S& loader, device const X* x, uint column, uint begin,
                        uint stride, uint rows, uint M, thread float (*sum)[VALUES]) {
  typename S::template group_params<VALUES> shared;
  if (TOGETHER && BM <= 2) {
    float partial[BM][VALUES];
    for (uint m = 0; m < BM; ++m) {
      for (uint i = 0; i < VALUES; ++i) partial[m][i] = 0.0f;
    }
#pragma unroll 2
    for (uint at = begin; at + CHUNK <= rows; at += stride) {
      float v[CHUNK][BM];
      load_chunk<BM, CHUNK, TOGETHER>(x, at, rows, M, v);
      load_group_params<F, VALUES>(loader, group_at<F>(loader, at), column, shared);
      float q[CHUNK * VALUES];
      codes<F, VALUES, CHUNK>(loader, shared, at, column, q);
#pragma unroll
      for (uint r = 0; r < CHUNK; ++r) add_products<BM, VALUES>(q + r * VALUES, v[r], partial);
      flush_group<BM, VALUES>(shared, partial, sum);
    }
  } else {
    uint group = ~0u;
    for (uint at = begin; at + CHUNK <= rows; at += stride) {
      float v[CHUNK][BM];
      load_chunk<BM, CHUNK, TOGETHER>(x, at, rows, M, v);
      if (TOGETHER && group_at<F>(loader, at) != group) {
        group = group_at<F>(loader, at);
        load_group_params<F, VALUES>(loader, group, column, shared);
      }
#pragma unroll
      for (uint r = 0; r < CHUNK; ++r) {
        float w[VALUES];
        if (!TOGETHER) {
          load_group_params<F, VALUES>(loader, group_at<F>(loader, at + r), column, shared);
        }
        codes<F, VALUES, 1>(loader, shared, at + r, column, w);
        apply_scale<VALUES>(shared, w, w);
        add_products<BM, VALUES>(w, v[r], sum);
      }
    }
  }
  for (uint row = rows / CHUNK * CHUNK + begin / CHUNK; row < rows; row += stride / CHUNK) {
    float v[1][BM];
    load_chunk<BM, 1, false>(x, row, rows, M, v);
    float w[VALUES];
    decode<F, VALUES>(loader, row, column, w);
    add_products<BM, VALUES>(w, v[0], sum);
  }
}

template <typename F, typename T, uint BM, typename X, typename S>
inline void qvm(thread const S& loader, device const X* x, device T* out,
                thread const LaunchParams& p, threadgroup float* scratch, uint threadgroup_index,
                uint thread_index) {
  const uint VALUES = BM <= 2 ? uint(S::qvm_columns) : 8;
  const uint CHUNK = BM > 4 ? 1 : BM > 2 ? 8 : uint(S::qvm_rows);
  const uint wide = 4;  // simdgroups side by side
  const uint deep = 8 / wide;
  const uint across = wide * 32 * VALUES;
  uint rows = p.rows;
  uint columns = p.columns;
  uint split = threadgroup_index % p.split_k;
  uint simdgroup = thread_index / 32;
  uint first = threadgroup_index / p.split_k * across;
  uint column = first + (simdgroup % wide * 32 + thread_index % 32) * VALUES;

  float sum[BM][VALUES];
  for (uint m = 0; m < BM; ++m) {
    for (uint i = 0; i < VALUES; ++i) sum[m][i] = 0.0f;
  }
  uint begin = (split * deep + simdgroup / wide) * CHUNK;
  uint stride = p.split_k * deep * CHUNK;
  bool aligned = rows % 8 == 0 && is_aligned(x);
  if (column + VALUES <= columns && aligned && share_group<F, CHUNK>(loader)) {
    add_columns<F, BM, VALUES, CHUNK, true>(loader, x, column, begin, stride, rows, p.M, sum);
  } else if (column + VALUES <= columns) {
    add_columns<F, BM, VALUES, CHUNK, false>(loader, x, column, begin, stride, rows, p.M, sum);
  } else if (column < columns) {
    for (uint at = begin; at < rows; at += stride) {
      for (uint row = at; row < min(at + CHUNK, rows); ++row) {
#pragma unroll
        for (uint i = 0; i < VALUES; ++i) {
          if (column + i >= columns) continue;
          float w[1];
          decode<F, 1>(loader, row, column + i, w);
#pragma unroll
          for (uint m = 0; m < BM; ++m) {
            sum[m][i] += w[0] * float(x[size_t(min(m, p.M - 1)) * rows + row]);
          }
        }
      }
    }
  }
#pragma unroll
  for (uint m = 0; m < BM; ++m) {
    for (uint i = 0; i < VALUES; ++i) scratch[thread_index * VALUES + i] = sum[m][i];
    threadgroup_barrier(mem_flags::mem_threadgroup);
    for (uint k = thread_index; k < across; k += 256) {
      float total = 0.0f;
      for (uint i = 0; i < deep; ++i) total += scratch[i * across + k];
      if (m < p.M && first + k < columns) {
        out[(size_t(split) * p.M + m) * columns + first + k] = T(total);
      }
    }
    threadgroup_barrier(mem_flags::mem_threadgroup);
  }
}
