// out[splits, vectors, outputs] = x times the matrix transposed or, BY_INPUTS, x times the matrix
//
// x is [vectors, inputs]. The stored matrix is [outputs, inputs] or, BY_INPUTS, [inputs, outputs].
//
// A threadgroup of 256 covers VECTORS vectors and 128 outputs, STEP inputs at a time: it unpacks
// that part of the weight into threadgroup memory, rounded to x's type, puts x beside it and
// multiplies 16 x 16 factors, added up in float32. Each of 8 simdgroups covers half of the vectors
// and a quarter of the outputs. With two BUFFERS one is filled while the other is read. The inputs
// are shared out over `splits` threadgroups; who asks for more than one adds them up.

#include "tiles.metal"

// Adds a step's products to the simdgroup's sums.
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
  w.group = ~0u;
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
  whole = whole && share_group<F, BY_INPUTS ? STEP : 8>(source);
  if (begin < end && whole) {
    add_tiles<F, typename tile_of<BY_INPUTS, STEP, X, S, (S::packs_rows != 0)>::weights, VECTORS,
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
