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

// A thread's part of a tile of weights, decoded along the stored rows. Its runs are of the same
// columns and, in a WHOLE tile BY_INPUTS, of the same group: then constants stay from step to step.
template <bool BY_INPUTS, uint STEP, bool WHOLE, typename X, typename S>
struct weights_along {
  enum { run = BY_INPUTS ? 8 : STEP / 2, runs = (BY_INPUTS ? uint(tile_outputs) : STEP) / run };
  enum { by_inputs = BY_INPUTS, step = STEP, whole = WHOLE, turned = BY_INPUTS };
  typename S::template constants<run> shared;
  uint group_end;
  octet<X> part[STEP / 16];
};

// The same decoded down the stored columns, in eights of rows that words pack, of one group each.
template <bool BY_INPUTS, uint STEP, typename X, typename S>
struct weights_down {
  enum { across = BY_INPUTS ? uint(tile_outputs) : STEP };
  enum { by_inputs = BY_INPUTS, step = STEP, whole = true, turned = !BY_INPUTS };
  typename S::template constants<1> shared;
  uint group_end;
  octet<X> part[STEP / 16];
};

// How a whole tile is decoded.
template <bool BY_INPUTS, uint STEP, typename X, typename S, bool DOWN>
struct tile_of {
  typedef weights_along<BY_INPUTS, STEP, true, X, S> weights;
};
template <bool BY_INPUTS, uint STEP, typename X, typename S>
struct tile_of<BY_INPUTS, STEP, X, S, true> {
  typedef weights_down<BY_INPUTS, STEP, X, S> weights;
};

template <typename F, bool BY_INPUTS, uint STEP, bool WHOLE, typename X, typename S>
inline void load_weights(thread const S& source, uint rows, uint columns, uint output, uint input,
                         uint thread_index,
                         thread weights_along<BY_INPUTS, STEP, WHOLE, X, S>& held) {
  typedef weights_along<BY_INPUTS, STEP, WHOLE, X, S> part;
  const uint N = part::run;
  static_assert(32 % part::runs == 0, "a thread keeps to its columns");
  uint row = (BY_INPUTS ? input : output) + thread_index / 8 / part::runs * 8 + thread_index % 8;
  uint column = ((BY_INPUTS ? output : input) / N + thread_index / 8 % part::runs) * N;
  if (WHOLE && BY_INPUTS && input >= held.group_end) {
    load_constants<F, N>(source, group_at(source, input), column, held.shared);
    held.group_end = group_end(source, input);
  }
#pragma unroll
  for (uint i = 0; i < STEP / 16; i += N / 8) {
    float w[N];
    if (WHOLE && BY_INPUTS) {
      decode<F, N>(source, held.shared, row, column, w);
    } else if (WHOLE || (row < rows && column + N <= columns)) {
      decode<F, N>(source, row, column, w);
    } else {
      decode_edge<F, N>(source, rows, columns, row, column, w);
    }
#pragma unroll
    for (uint k = 0; k < N; k += 8) round_octet(w + k, held.part[i + k / 8]);
    row += 32 / part::runs * 8;
  }
}

template <typename F, bool BY_INPUTS, uint STEP, typename X, typename S>
inline void load_weights(thread const S& source, uint, uint, uint output, uint input,
                         uint thread_index, thread weights_down<BY_INPUTS, STEP, X, S>& held) {
  const uint across = weights_down<BY_INPUTS, STEP, X, S>::across;
  uint row = ((BY_INPUTS ? input : output) / 8 + thread_index / across) * 8;
  uint column = (BY_INPUTS ? output : input) + thread_index % across;
  if (BY_INPUTS && input >= held.group_end) {
    load_constants<F, 1>(source, group_at(source, input), column, held.shared);
    held.group_end = group_end(source, input);
  }
#pragma unroll
  for (uint i = 0; i < STEP / 16; ++i) {
    if (!BY_INPUTS) load_constants<F, 1>(source, group_at(source, row), column, held.shared);
    float w[8];
    S::template decode_down<F>(source, held.shared, row, column, w);
    round_octet(w, held.part[i]);
    row += 256 / across * 8;
  }
}

template <bool TURNED, uint STEP, typename X>
inline void store_weight(threadgroup X* tile, uint output, uint input,
                         thread const octet<X>& weights) {
  uint block = output / 8 * (STEP / 8) + input / 8;
  store_octet(tile + block * 64 + (TURNED ? input : output) % 8 * 8, weights);
}

template <bool BY_INPUTS, uint STEP, bool WHOLE, typename X, typename S>
inline void store_weights(threadgroup X* tile, uint thread_index,
                          thread const weights_along<BY_INPUTS, STEP, WHOLE, X, S>& held) {
  typedef weights_along<BY_INPUTS, STEP, WHOLE, X, S> part;
  uint row = thread_index / 8 / part::runs * 8 + thread_index % 8;
  uint column = thread_index / 8 % part::runs * part::run;
#pragma unroll
  for (uint i = 0; i < STEP / 16; ++i) {
    uint at = column + i % (part::run / 8) * 8;
    store_weight<BY_INPUTS, STEP>(tile, BY_INPUTS ? at : row, BY_INPUTS ? row : at, held.part[i]);
    if (i % (part::run / 8) == part::run / 8 - 1) row += 32 / part::runs * 8;
  }
}

template <bool BY_INPUTS, uint STEP, typename X, typename S>
inline void store_weights(threadgroup X* tile, uint thread_index,
                          thread const weights_down<BY_INPUTS, STEP, X, S>& held) {
  const uint across = weights_down<BY_INPUTS, STEP, X, S>::across;
  uint row = thread_index / across * 8;
  uint column = thread_index % across;
#pragma unroll
  for (uint i = 0; i < STEP / 16; ++i) {
    store_weight<!BY_INPUTS, STEP>(tile, BY_INPUTS ? column : row, BY_INPUTS ? row : column,
                                   held.part[i]);
    row += 256 / across * 8;
  }
}

template <bool TURNED, uint VECTORS, uint STEP, typename X>
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
      load_right<TURNED>(weights + n * 2 * stride + k * 8, stride, w[n]);
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
template <typename F, typename P, uint VECTORS, uint BUFFERS, typename X, typename S>
inline void add_tiles(thread const S& source, device const X* x, device const uint* sizes,
                      uint vector, uint output, uint begin, uint end, threadgroup X* tiles,
                      uint thread_index, thread sums* sum) {
  const uint step = P::step;
  const uint x_count = VECTORS * step / 2048;
  static_assert(x_count * 2048 == VECTORS * step, "every thread loads as much of x");
  uint rows = sizes[0];
  uint columns = sizes[1];
  uint vectors = sizes[vectors_at];
  uint inputs = P::by_inputs ? rows : columns;
  uint last = begin + (end - begin - 1) / step * step;

  octet<X> v[x_count];
  P w;
  w.group_end = 0;
  load_x<step, x_count, P::whole>(x, vectors, inputs, vector, begin, thread_index, v);
  load_weights<F>(source, rows, columns, output, begin, thread_index, w);
  for (uint at = begin; at < end; at += step) {
    threadgroup X* tile = tiles;
    if (BUFFERS == 2) tile += at / step % 2 * (VECTORS + tile_outputs) * step;
    if (BUFFERS == 1) threadgroup_barrier(mem_flags::mem_threadgroup);
    store_x<step, x_count>(tile, thread_index, v);
    store_weights(tile + VECTORS * step, thread_index, w);
    threadgroup_barrier(mem_flags::mem_threadgroup);
    // The last comes twice: a branch would keep it apart from the products.
    uint next = min(at + step, last);
    load_x<step, x_count, P::whole>(x, vectors, inputs, vector, next, thread_index, v);
    load_weights<F>(source, rows, columns, output, next, thread_index, w);
    multiply_tiles<P::turned, VECTORS, step>(tile, tile + VECTORS * step, thread_index / 32, sum);
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
  if (BY_INPUTS || S::tile_rows > 1) whole = whole && in_order(source, BY_INPUTS ? STEP : 8);
  if (begin < end && whole) {
    add_tiles<F, typename tile_of<BY_INPUTS, STEP, X, S, (S::tile_rows > 1)>::weights, VECTORS,
              BUFFERS>(source, x, sizes, vector, output, begin, end, tiles, thread_index, sum);
  } else if (begin < end) {
    add_tiles<F, weights_along<BY_INPUTS, STEP, false, X, S>, VECTORS, BUFFERS>(
        source, x, sizes, vector, output, begin, end, tiles, thread_index, sum);
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
