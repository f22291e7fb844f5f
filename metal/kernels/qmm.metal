// out[splits, vectors, outputs] = x times the matrix transposed or, LAYOUT_KN, x times the matrix
//
// x is [vectors, inputs], arranged (pack_activations.metal). The stored matrix is [outputs, inputs]
// or, LAYOUT_KN, [inputs, outputs].
//
// A threadgroup of 256 covers VECTORS vectors and 128 outputs, a step of inputs at a time. Each of
// 8 simdgroups unpacks its 16 outputs into registers, rounded to x's type, and multiplies them by
// all of the vectors, added up in float32. x comes through threadgroup memory. The inputs are
// shared out over `splits` threadgroups; who asks for more than one adds them up.

#include "qmm_loads.metal"

#include "staging.metal"

// Adds up `steps` steps of whole tiles from input `begin` on, an even number: weights are brought
// by pairs. While one is multiplied, the weights of the next are unpacked and x of the next is on
// its way. Half by half: a simdgroup can stall where it starts products, and unpacks in between.
//
// Weights that are brought in step 2p may take the place of pair p - 1: x of step 2p has come,
// which was asked for when all simdgroups were done with x of step 2p - 2, in step 2p - 1. Before
// that, in step 2p - 2, they unpacked the last of pair p - 1.
template <typename F, bool LAYOUT_KN, uint VECTORS, uint RUN, typename X, typename S>
inline void add_steps(thread const S& loader, device const X* x, uint outputs, uint inputs,
                      uint output, uint begin, uint steps, uint thread_index, threadgroup X* tiles,
                      thread workspace<X>& space, thread accumulator<VECTORS>& sum) {
  const uint step = 4 * RUN;
  const uint size = VECTORS * step;
  const typename staging_of<F, LAYOUT_KN, VECTORS, RUN, S>::type where;
  const direction<LAYOUT_KN, S::layout_kn> along;
  uint lane_output = output + thread_index / 4 * lane_outputs;
  uint lane_input = thread_index % 4 * RUN;
  // Two of each, of tiles of x too: products read one while the other is made.
  fragment<X, RUN> even, odd;
  copy_tile<size>(space, x, tiles, 0);
  bring_weights<F, RUN>(where, along, loader, output, begin, 0, thread_index, space);
  wait_for_weights(where, 0, space);
  S first = near_weights<F>(where, loader, output, begin, 0, 0, thread_index, space);
  load_weights<F, true, 0>(along, first, outputs, inputs, lane_output, begin + lane_input, space,
                           even);
  load_weights<F, true, 1>(along, first, outputs, inputs, lane_output, begin + lane_input, space,
                           even);
  for (uint i = 0; i < steps; i += 2) {
#pragma unroll
    for (uint k = 0; k < 2; ++k) {
      if (i + k == steps) break;
      thread fragment<X, RUN>& weights = k == 0 ? even : odd;
      thread fragment<X, RUN>& others = k == 0 ? odd : even;
      threadgroup const X* tile = tiles + k * size;
      x += size;
      wait_for_tile(space, k);
      if (k == 1 && i + 2 < steps) wait_for_weights(where, i / 2 + 1, space);
      wait_for_products();
      if (i + k > 0) release_tile(space, 1 - k);
      multiply_add<0>(space, sum, weights, tile);
      if (i + k + 1 < steps) copy_tile<size>(space, x, tiles + (1 - k) * size, 1 - k);
      if (k == 0 && i + 2 < steps) {
        bring_weights<F, RUN>(where, along, loader, output, begin + (i + 2) * step, i / 2 + 1,
                              thread_index, space);
      }
      // The last come twice: a branch would keep them apart from the products.
      uint next = k == 0 ? i : min(i + 2, steps - 2);
      uint input = begin + next * step;
      S near = near_weights<F>(where, loader, output, input, next / 2, 1 - k, thread_index, space);
      input += (1 - k) * step + lane_input;
      load_weights<F, true, 0>(along, near, outputs, inputs, lane_output, input, space, others);
      multiply_add<1>(space, sum, weights, tile);
      load_weights<F, true, 1>(along, near, outputs, inputs, lane_output, input, space, others);
    }
  }
  wait_for_sums(sum);
  release_tile(space, (steps - 1) % 2);
  threadgroup_barrier(mem_flags::mem_threadgroup);
}

// The same where a tile or a step may be cut short.
template <typename F, bool LAYOUT_KN, uint VECTORS, uint RUN, typename X, typename S>
inline void add_edges(thread const S& loader, device const X* x, uint outputs, uint inputs,
                      uint output, uint begin, uint steps, threadgroup X* tiles,
                      thread workspace<X>& space, thread accumulator<VECTORS>& sum) {
  const uint step = 4 * RUN;
  const direction<LAYOUT_KN, S::layout_kn> along;
  fragment<X, RUN> weights;
  for (uint i = 0; i < steps; ++i) {
    uint input = begin + i * step;
    copy_tile<VECTORS * step>(space, x, tiles, 0);
    x += VECTORS * step;
    load_weights<F, false, 0>(along, loader, outputs, inputs, output, input, space, weights);
    load_weights<F, false, 1>(along, loader, outputs, inputs, output, input, space, weights);
    wait_for_tile(space, 0);
    multiply_add<0>(space, sum, weights, tiles);
    multiply_add<1>(space, sum, weights, tiles);
    wait_for_sums(sum);
    release_tile(space, 0);
    threadgroup_barrier(mem_flags::mem_threadgroup);
  }
}

template <typename F, typename T, bool LAYOUT_KN, uint VECTORS, uint RUN, uint CLUSTER, typename X,
          typename S>
inline void qmm(thread const S& loader, device const X* x, device T* out, device const uint* sizes,
                threadgroup float* scratch, uint threadgroup_index, uint thread_index) {
  const uint step = 4 * RUN;
  uint inputs = sizes[LAYOUT_KN ? 0 : 1];
  uint outputs = sizes[LAYOUT_KN ? 1 : 0];
  uint vectors = sizes[vectors_at];
  uint splits = sizes[splits_at];
  // Threadgroups of a cluster share x. Those of the same weights are near each other.
  const uint cluster_outputs = CLUSTER * tile_outputs;
  uint down = (vectors + VECTORS - 1) / VECTORS;
  uint across = (outputs + cluster_outputs - 1) / cluster_outputs;
  uint cluster = threadgroup_index / CLUSTER;
  uint vector = cluster % down * VECTORS;
  uint cluster_output = cluster / down % across * cluster_outputs;
  uint first_output = cluster_output + threadgroup_index % CLUSTER * tile_outputs;
  uint split = cluster / down / across;
  uint steps = (inputs + step - 1) / step;
  uint share = ((steps + splits - 1) / splits + 1) / 2 * 2;
  uint first = min(share * split, steps);
  uint end = min(first + share, steps);

  accumulator<VECTORS> sum;
  clear(sum);
  threadgroup X* tiles = (threadgroup X*)scratch;
  workspace<X> space;
  start(space, tiles + 2 * VECTORS * step, thread_index);
  bool even = !LAYOUT_KN || has_g_idx<F>(loader) || share_group<F, RUN>(loader);
  // A tile that would be cut short begins earlier, where weights can be read from there.
  bool can_move = outputs >= tile_outputs && (!LAYOUT_KN || outputs % 16 == 0);
  bool whole = even && (can_move || cluster_output + cluster_outputs <= outputs);
  uint output = whole ? min(first_output, outputs - tile_outputs) : first_output;
  uint edge = whole ? max(first, min(end, inputs / step)) : first;
  edge -= (edge - first) % 2;
  x += size_t(vector) * steps * step;
  uint lane_output = output + thread_index / 4 * lane_outputs;
  uint lane_input = thread_index % 4 * RUN;
  if (first < edge) {
    add_steps<F, LAYOUT_KN, VECTORS, RUN>(loader, x + size_t(first) * step * VECTORS, outputs,
                                          inputs, output, first * step, edge - first, thread_index,
                                          tiles, space, sum);
  }
  add_edges<F, LAYOUT_KN, VECTORS, RUN>(loader, x + size_t(edge) * step * VECTORS, outputs, inputs,
                                        lane_output, lane_input + edge * step, end - edge, tiles,
                                        space, sum);

  threadgroup float* mine = scratch + thread_index / 32 * 128;
  uint column = output + thread_index / 32 * 16 + thread_index % 16;
  bool kept = column >= first_output && column < outputs;
  out += size_t(split) * vectors * outputs + column;
#pragma unroll
  for (uint i = 0; i < VECTORS / 8; ++i) {
    store_sums(sum, i, mine);
    simdgroup_barrier(mem_flags::mem_threadgroup);
    for (uint k = thread_index % 32 / 16; k < 8; k += 2) {
      uint row = vector + i * 8 + k;
      if (row < vectors && kept) out[size_t(row) * outputs] = T(mine[k * 16 + thread_index % 16]);
    }
    simdgroup_barrier(mem_flags::mem_threadgroup);
  }
  finish(space);
}
