// out[splits, vectors, outputs] = x times the matrix transposed or, BY_INPUTS, x times the matrix
//
// x is [vectors, inputs]. The stored matrix is [outputs, inputs] or, BY_INPUTS, [inputs, outputs].
//
// A threadgroup of 256 covers VECTORS vectors and 128 outputs, STEP inputs at a time: it unpacks
// that part of the weight into threadgroup memory, rounded to x's type, puts x beside it and
// multiplies 16 x 16 factors, added up in float32. Each of 8 simdgroups covers half of the vectors
// and a quarter of the outputs. With two BUFFERS one is filled while the other is read. The inputs
// are shared out over `splits` threadgroups; who asks for more than one adds them up.
//
// A tile lies in memory as 8 x 8 blocks of 8 runs each, so that the runs that lanes store or load
// at once never meet in a bank.

enum { tile_outputs = 128 };

// A thread's part of a tile, on its way to threadgroup memory: COUNT runs, 32 octets apart.
template <uint STEP, uint COUNT, bool WHOLE, typename X>
inline void load_x(device const X* x, uint vectors, uint inputs, uint vector, uint input,
                   uint thread_index, thread octet<X>* part) {
#pragma unroll
  for (uint i = 0; i < COUNT; ++i) {
    uint at = thread_index / 8 + i * 32;
    uint row = min(vector + at / (STEP / 8) * 8 + thread_index % 8, vectors - 1);
    uint column = input + at % (STEP / 8) * 8;
    device const X* from = x + size_t(row) * inputs + column;
    float v[8];
    if (WHOLE) {
      load_octet(from, part[i]);
    } else {
#pragma unroll
      for (uint k = 0; k < 8; ++k) v[k] = column + k < inputs ? float(from[k]) : 0.0f;
      round_octet(v, part[i]);
    }
  }
}

template <uint STEP, uint COUNT, typename X>
inline void store_x(threadgroup X* tile, uint thread_index, thread const octet<X>* part) {
#pragma unroll
  for (uint i = 0; i < COUNT; ++i) store_octet(tile + (thread_index + i * 256) * 8, part[i]);
}

// Weights that lie past the matrix are zero.
template <typename F, uint N, typename S>
inline void decode_edge(thread const S& source, uint rows, uint columns, uint row, uint column,
                        thread float* w) {
#pragma unroll
  for (uint i = 0; i < N; ++i) w[i] = 0.0f;
  if (row >= rows) return;
#pragma unroll 1
  for (uint k = 0; k < N && column + k < columns; ++k) {
    float one[1];
    decode<F, 1>(source, row, column + k, one);
    // An index that is not constant would put all of w in memory.
#pragma unroll
    for (uint i = 0; i < N; ++i) w[i] = i == k ? one[0] : w[i];
  }
}

// A thread's runs are of the same columns, and of the same group where the tile is WHOLE: then
// their constants stay from step to step.
template <typename F, bool BY_INPUTS, uint STEP, uint N, uint COUNT, bool WHOLE, typename X,
          typename S, typename C>
inline void load_weights(thread const S& source, uint rows, uint columns, uint output, uint input,
                         uint thread_index, thread C& shared, thread uint& group,
                         thread octet<X>* part) {
  const uint runs = (BY_INPUTS ? uint(tile_outputs) : STEP) / N;
  static_assert(32 % runs == 0, "a thread keeps to its columns");
  uint row = (BY_INPUTS ? input : output) + thread_index / 8 / runs * 8 + thread_index % 8;
  uint column = (BY_INPUTS ? output : input) + thread_index / 8 % runs * N;
  if (WHOLE && BY_INPUTS) {
    uint next = group_at<F>(source, input);
    if (next != group) load_constants<F, N>(source, next, column, shared);
    group = next;
  }
#pragma unroll
  for (uint i = 0; i < COUNT; ++i) {
    float w[N];
    if (WHOLE && BY_INPUTS) {
      codes<F, N, 1>(source, shared, row, column, w);
      scaled<N>(shared, w, w);
    } else if (WHOLE || (row < rows && column + N <= columns)) {
      decode<F, N>(source, row, column, w);
    } else {
      decode_edge<F, N>(source, rows, columns, row, column, w);
    }
#pragma unroll
    for (uint k = 0; k < N; k += 8) round_octet(w + k, part[i * (N / 8) + k / 8]);
    row += 32 / runs * 8;
  }
}

template <bool BY_INPUTS, uint STEP, uint N, uint COUNT, typename X>
inline void store_weights(threadgroup X* tile, uint thread_index, thread const octet<X>* part) {
  const uint runs = (BY_INPUTS ? uint(tile_outputs) : STEP) / N;
  uint row = thread_index / 8 / runs;
  uint column = thread_index / 8 % runs * (N / 8);
#pragma unroll
  for (uint i = 0; i < COUNT; ++i) {
#pragma unroll
    for (uint k = 0; k < N / 8; ++k) {
      uint block = BY_INPUTS ? (column + k) * (STEP / 8) + row : row * (STEP / 8) + column + k;
      store_octet(tile + block * 64 + thread_index % 8 * 8, part[i * (N / 8) + k]);
    }
    row += 32 / runs;
  }
}

template <bool BY_INPUTS, uint VECTORS, uint STEP, typename X>
inline void multiply_tiles(threadgroup const X* x, threadgroup const X* weights, uint simdgroup,
                           thread sums* sum) {
  const uint stride = STEP * 8;
  x += simdgroup % 2 * (VECTORS / 2) * STEP;
  weights += simdgroup / 2 * 32 * STEP;
#pragma unroll
  for (uint k = 0; k < STEP; k += 16) {
    factor<X> w[2];
#pragma unroll
    for (uint n = 0; n < 2; ++n) {
      load_right<BY_INPUTS>(weights + n * 2 * stride + k * 8, stride, w[n]);
    }
#pragma unroll
    for (uint m = 0; m < VECTORS / 32; ++m) {
      factor<X> v;
      load_left(x + m * 2 * stride + k * 8, stride, v);
#pragma unroll
      for (uint n = 0; n < 2; ++n) multiply_add(sum[m * 2 + n], v, w[n]);
    }
  }
}

// Adds up the inputs from `begin` to `end`.
template <typename F, bool BY_INPUTS, uint VECTORS, uint STEP, uint BUFFERS, bool WHOLE, typename X,
          typename S>
inline void add_tiles(thread const S& source, device const X* x, device const uint* sizes,
                      uint vector, uint output, uint begin, uint end, threadgroup X* tiles,
                      uint thread_index, thread sums* sum) {
  const uint N = BY_INPUTS ? 8 : 16;
  const uint x_count = VECTORS * STEP / 2048;
  const uint count = tile_outputs * STEP / (256 * N);
  const uint buffer = (VECTORS + tile_outputs) * STEP;
  static_assert(x_count * 2048 == VECTORS * STEP, "every thread loads as much of x");
  uint rows = sizes[0];
  uint columns = sizes[1];
  uint vectors = sizes[vectors_at];
  uint inputs = BY_INPUTS ? rows : columns;
  uint last = begin + (end - begin - 1) / STEP * STEP;

  octet<X> v[x_count];
  octet<X> w[count * N / 8];
  typename S::template constants<N> shared;
  uint group = ~0u;
  load_x<STEP, x_count, WHOLE>(x, vectors, inputs, vector, begin, thread_index, v);
  load_weights<F, BY_INPUTS, STEP, N, count, WHOLE>(source, rows, columns, output, begin,
                                                    thread_index, shared, group, w);
  for (uint at = begin; at < end; at += STEP) {
    threadgroup X* tile = BUFFERS == 2 ? tiles + (at / STEP) % 2 * buffer : tiles;
    if (BUFFERS == 1) threadgroup_barrier(mem_flags::mem_threadgroup);
    store_x<STEP, x_count>(tile, thread_index, v);
    store_weights<BY_INPUTS, STEP, N, count>(tile + VECTORS * STEP, thread_index, w);
    threadgroup_barrier(mem_flags::mem_threadgroup);
    // The last comes twice: a branch would keep it apart from the products.
    uint next = min(at + STEP, last);
    load_x<STEP, x_count, WHOLE>(x, vectors, inputs, vector, next, thread_index, v);
    load_weights<F, BY_INPUTS, STEP, N, count, WHOLE>(source, rows, columns, output, next,
                                                      thread_index, shared, group, w);
    multiply_tiles<BY_INPUTS, VECTORS, STEP>(tile, tile + VECTORS * STEP, thread_index / 32, sum);
  }
}

template <typename F, typename T, bool BY_INPUTS, uint VECTORS, uint STEP, uint BUFFERS, typename X,
          typename S>
inline void product_tiled(thread const S& source, device const X* x, device T* out,
                          device const uint* sizes, threadgroup float* scratch,
                          uint threadgroup_index, uint thread_index) {
  uint inputs = sizes[BY_INPUTS ? 0 : 1];
  uint outputs = sizes[BY_INPUTS ? 1 : 0];
  uint vectors = sizes[vectors_at];
  uint splits = sizes[splits_at];
  // Threadgroups of the same weights are neighbours.
  uint down = (vectors + VECTORS - 1) / VECTORS;
  uint across = (outputs + tile_outputs - 1) / tile_outputs;
  uint vector = threadgroup_index % down * VECTORS;
  uint output = threadgroup_index / down % across * tile_outputs;
  uint split = threadgroup_index / down / across;
  uint steps = (inputs + STEP - 1) / STEP;
  uint begin = min((steps + splits - 1) / splits * split * STEP, inputs);
  uint end = min(begin + (steps + splits - 1) / splits * STEP, inputs);

  sums sum[VECTORS / 16];
#pragma unroll
  for (uint i = 0; i < VECTORS / 16; ++i) clear(sum[i]);
  threadgroup X* tiles = (threadgroup X*)scratch;
  bool whole = inputs % STEP == 0 && output + tile_outputs <= outputs && is_aligned(x);
  if (BY_INPUTS) whole = whole && share_group<F, STEP>(source);
  if (begin < end && whole) {
    add_tiles<F, BY_INPUTS, VECTORS, STEP, BUFFERS, true>(source, x, sizes, vector, output, begin,
                                                          end, tiles, thread_index, sum);
  } else if (begin < end) {
    add_tiles<F, BY_INPUTS, VECTORS, STEP, BUFFERS, false>(source, x, sizes, vector, output, begin,
                                                           end, tiles, thread_index, sum);
  }
  threadgroup_barrier(mem_flags::mem_threadgroup);

  uint simdgroup = thread_index / 32;
  threadgroup float* mine = scratch + simdgroup * 256;
  out += size_t(split) * vectors * outputs;
#pragma unroll
  for (uint i = 0; i < VECTORS / 16; ++i) {
    store_sums(sum[i], mine);
    simdgroup_barrier(mem_flags::mem_threadgroup);
    uint column = output + simdgroup / 2 * 32 + i % 2 * 16 + thread_index % 16;
    for (uint k = thread_index % 32 / 16; k < 16; k += 2) {
      uint row = vector + simdgroup % 2 * (VECTORS / 2) + i / 2 * 16 + k;
      if (row < vectors && column < outputs) {
        out[size_t(row) * outputs + column] = T(mine[k * 16 + thread_index % 16]);
      }
    }
    simdgroup_barrier(mem_flags::mem_threadgroup);
  }
}
