// out[M, columns] = x[M, rows] @ W for a stored W [rows, columns], BM rows of x at a time,
// accumulated in float32
//
// A lane covers VALUES columns. LANES lanes lie side by side along a row. The 256 / LANES groups of
// lanes take turns with chunks of W's rows, CHUNK each, and their sums are added up in threadgroup
// memory. With a BM of 8 + n, neighbouring threadgroups multiply n rows of x each, so that x may have
// any number of rows.

#include "edges.metal"
#include "x_rows.metal"

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

// v[r][m] = row first + m of x, which has M, at input at + r.
template <typename F, uint BM, uint CHUNK, bool ALIGNED, typename X, typename S>
inline void load_chunk(thread const S& loader, device const X* x, uint at, uint rows, uint first,
                       uint M, thread float (*v)[BM]) {
#pragma unroll
  for (uint m = 0; m < BM; ++m) {
    float values[CHUNK];
    x_rows<F>::template load<CHUNK, ALIGNED>(loader, x, row_place<BM>(first, m, M, rows), at, 0,
                                             values);
#pragma unroll
    for (uint r = 0; r < CHUNK; ++r) v[r][m] = values[r];
  }
}

// Adds VALUES columns of the rows begin ... begin + CHUNK - 1, begin + stride ... to `sum`, as far as
// whole chunks go. Rows of a chunk are of one group, and x is aligned. This loop, for one or two rows of
// x, has no branches, so that the loads of two chunks overlap.
struct by_chunks {
  template <typename F, uint BM, uint VALUES, uint CHUNK, typename X, typename S>
  static inline void add(thread const S& loader, device const X* x, uint column, uint begin,
                         uint stride, uint rows, uint first, uint M, thread float (*sum)[VALUES]) {
    typename S::template group_params<VALUES> shared;
    float partial[BM][VALUES];
    for (uint m = 0; m < BM; ++m) {
      for (uint i = 0; i < VALUES; ++i) partial[m][i] = 0.0f;
    }
#pragma unroll chunks_at_once
    for (uint at = begin; at + CHUNK <= rows; at += stride) {
      float v[CHUNK][BM];
      load_chunk<F, BM, CHUNK, true>(loader, x, at, rows, first, M, v);
      load_group_params<F, VALUES>(loader, group_at<F>(loader, at), column, shared);
      float q[CHUNK * VALUES];
      group_codes<F, VALUES, CHUNK>(loader, shared, at, column, q);
#pragma unroll
      for (uint r = 0; r < CHUNK; ++r) add_products<BM, VALUES>(q + r * VALUES, v[r], partial);
      flush_group<BM, VALUES>(shared, partial, sum);
    }
  }
};

// The same for more rows of x, all of which are multiplied by a row of W at once.
struct by_rows {
  template <typename F, uint BM, uint VALUES, uint CHUNK, typename X, typename S>
  static inline void add(thread const S& loader, device const X* x, uint column, uint begin,
                         uint stride, uint rows, uint first, uint M, thread float (*sum)[VALUES]) {
    typename S::template group_params<VALUES> shared;
    uint group = ~0u;
    for (uint at = begin; at + CHUNK <= rows; at += stride) {
      float v[CHUNK][BM];
      load_chunk<F, BM, CHUNK, true>(loader, x, at, rows, first, M, v);
      if (group_at<F>(loader, at) != group) {
        group = group_at<F>(loader, at);
        load_group_params<F, VALUES>(loader, group, column, shared);
      }
#pragma unroll
      for (uint r = 0; r < CHUNK; ++r) {
        float w[VALUES];
        group_codes<F, VALUES, 1>(loader, shared, at + r, column, w);
        apply_scale<VALUES>(shared, w, w);
        add_products<BM, VALUES>(w, v[r], sum);
      }
    }
  }
};

// The same for rows of x in turn: 32 codes are multiplied by each.
struct x_in_turn {
  template <typename F, uint BM, uint VALUES, uint CHUNK, typename X, typename S>
  static inline void add(thread const S& loader, device const X* x, uint column, uint begin,
                         uint stride, uint rows, uint first, uint M, thread float (*sum)[VALUES]) {
    const uint STEP = 32 / VALUES;
    typename S::template group_params<VALUES> shared;
#pragma unroll 1
    for (uint at = begin; at + CHUNK <= rows; at += stride) {
      load_group_params<F, VALUES>(loader, group_at<F>(loader, at), column, shared);
#pragma unroll
      for (uint k = 0; k < CHUNK; k += STEP) {
        float q[STEP * VALUES];
        group_codes<F, VALUES, STEP>(loader, shared, at + k, column, q);
#pragma unroll
        for (uint m = 0; m < BM; ++m) {
          float v[STEP], dot[VALUES];
          uint from = row_place<BM>(first, m, M, rows);
          x_rows<F>::template load<STEP, true>(loader, x, from, at, k, v);
#pragma unroll
          for (uint i = 0; i < VALUES; ++i) {
#pragma unroll
            for (uint r = 0; r < STEP; ++r) {
              dot[i] = r == 0 ? q[i] * v[0] : dot[i] + q[r * VALUES + i] * v[r];
            }
          }
          apply_scale<VALUES>(shared, dot, dot);
#pragma unroll
          for (uint i = 0; i < VALUES; ++i) sum[m][i] += dot[i];
        }
      }
    }
  }
};

// The ROWS rows of x from `from` on, and of the result from `to` on.
template <typename F, typename T, uint ROWS, uint LANES, uint VALUES, uint CHUNK, typename LOOP,
          typename X, typename S>
inline void qvm_pass(thread const S& loader, device const X* x, device T* out,
                     thread const LaunchParams& p, threadgroup float* scratch, uint from, uint to,
                     uint threadgroup_index, uint thread_index) {
  const uint deep = 256 / LANES;
  const uint across = LANES * VALUES;
  uint rows = p.rows;
  uint columns = p.columns;
  uint first = threadgroup_index * across;
  uint column = first + thread_index % LANES * VALUES;

  float sum[ROWS][VALUES];
  for (uint m = 0; m < ROWS; ++m) {
    for (uint i = 0; i < VALUES; ++i) sum[m][i] = 0.0f;
  }
  uint begin = thread_index / LANES * CHUNK;
  uint stride = deep * CHUNK;
  uint done = 0;
  if (column + VALUES <= columns && is_aligned(x, rows) && share_group<F, CHUNK>(loader)) {
    LOOP::template add<F, ROWS, VALUES, CHUNK>(loader, x, column, begin, stride, rows, from, p.M,
                                               sum);
    done = rows / CHUNK * CHUNK;
  }
  // What is left, a row at a time.
#pragma unroll 1
  for (uint row = done + thread_index / LANES; row < rows && column < columns; row += deep) {
    float v[1][ROWS];
    load_chunk<F, ROWS, 1, false>(loader, x, row, rows, from, p.M, v);
    float w[VALUES];
    if (column + VALUES <= columns) {
      decode<F, VALUES>(loader, row, column, w);
    } else {
      decode_edge<F, VALUES>(loader, rows, columns, row, column, w);
    }
    add_products<ROWS, VALUES>(w, v[0], sum);
  }
#pragma unroll
  for (uint m = 0; m < ROWS; ++m) {
    for (uint i = 0; i < VALUES; ++i) scratch[thread_index * VALUES + i] = sum[m][i];
    threadgroup_barrier(mem_flags::mem_threadgroup);
    for (uint k = thread_index; k < across; k += 256) {
      float total = 0.0f;
      for (uint i = 0; i < deep; ++i) total += scratch[i * across + k];
      if ((ROWS == 1 || to + m < p.M) && first + k < columns) {
        out[(to + m) * columns + results<F>::place(loader, first + k)] = T(total);
      }
    }
    threadgroup_barrier(mem_flags::mem_threadgroup);
  }
}

template <typename F, typename T, uint BM, uint LANES, uint VALUES, uint CHUNK, typename LOOP,
          typename X, typename S>
inline void qvm(thread const S& loader, device const X* x, device T* out,
                thread const LaunchParams& p, threadgroup float* scratch, uint threadgroup_index,
                uint thread_index) {
  const uint ROWS = BM > 8 ? BM - 8 : BM;  // of x, in a pass
  uint passes = BM > 8 ? (p.M + ROWS - 1) / ROWS : 1;
  uint first = threadgroup_index % passes * ROWS;
  qvm_pass<F, T, ROWS, LANES, VALUES, CHUNK, LOOP>(loader, x, out, p, scratch, first, first,
                                                   threadgroup_index / passes, thread_index);
}
