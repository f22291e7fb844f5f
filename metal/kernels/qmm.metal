// out[split_k, M, outputs] = x @ W.T for a stored W [outputs, inputs] or, with KN, x @ W for a
// stored W [inputs, outputs], in blocks of BM rows of x
//
// x is [M, inputs], packed by pack_activations. A threadgroup of 256 covers a block of BM rows of x
// and 128 outputs, in steps of BK = 4 * TK inputs. Each of its 8 simdgroups decodes 16 outputs into
// registers, rounded to x's type. It multiplies them by all BM rows, which lie in threadgroup
// memory, and accumulates in float32. split_k threadgroups share the inputs; split_k_reduce adds up
// their results.

// What a platform's matrix unit gives, for X a type of two bytes:
//
//   weight_fragment<X, TK>      a lane's weights: 2 outputs, TK inputs
//   compute_type<X, S>          the type that they are computed in, by a format's scale_traits
//   round_to<N>(w, output, first, fragment)
//                               puts N of a lane's weights there, rounded to X
//   accumulator<BM>, clear, store_sums(sum, eighth, to)
//                               16 outputs x BM sums of a simdgroup; eight rows of them, [8, 16]
//   swizzle_width, swizzled_offset<BM, TK>(row, input), store_swizzled
//                               how a tile of x lies in memory (pack_activations)
//   workspace<X>, start         what lanes share; `exchange` has 512 elements a simdgroup
//   copy_tile<COUNT>(space, from, to, buffer), wait_for_tile(space, buffer)
//                               begins to copy a tile to one of two buffers; returns when it is there
//   release_tile(space, buffer) this simdgroup is done with the tile, so that it may be overwritten
//   multiply_add<HALF>(space, sum, fragment, tile)
//                               adds half of the k-slices, and may run on: fragment and tile stay as
//                               they are until wait_for_products or wait_for_sums returns

#include "qmm_loads.metal"

// Adds `steps` steps of whole blocks, from input `begin` on. While one step is multiplied, the
// weights of the next are decoded and its x is copied. A step runs in two halves, because a
// simdgroup can stall where it starts products: it decodes in between.
template <typename F, bool KN, uint BM, uint TK, typename X, typename S>
inline void add_steps(thread const S& loader, device const X* x, uint outputs, uint inputs,
                      uint output, uint begin, uint steps, threadgroup X* tiles,
                      thread workspace<X>& space, thread accumulator<BM>& sum) {
  const uint BK = 4 * TK;
  const uint size = BM * BK;
  const direction<KN, S::layout_kn> along;
  // Fragments and tiles are double-buffered: products read one while the other is filled.
  weight_fragment<X, TK> even, odd;
  copy_tile<size>(space, x, tiles, 0);
  load_weights<F, true, 0>(along, loader, outputs, inputs, output, begin, space, even);
  load_weights<F, true, 1>(along, loader, outputs, inputs, output, begin, space, even);
  for (uint i = 0; i < steps; i += 2) {
#pragma unroll
    for (uint k = 0; k < 2; ++k) {
      if (i + k == steps) break;
      thread weight_fragment<X, TK>& weights = k == 0 ? even : odd;
      thread weight_fragment<X, TK>& next = k == 0 ? odd : even;
      threadgroup const X* tile = tiles + k * size;
      x += size;
      wait_for_tile(space, k);
      wait_for_products();
      if (i + k > 0) release_tile(space, 1 - k);
      multiply_add<0>(space, sum, weights, tile);
      if (i + k + 1 < steps) copy_tile<size>(space, x, tiles + (1 - k) * size, 1 - k);
      // The last step decodes its weights again. With a branch instead, decoding would not overlap
      // with the products.
      uint input = begin + min(i + k + 1, steps - 1) * BK;
      load_weights<F, true, 0>(along, loader, outputs, inputs, output, input, space, next);
      multiply_add<1>(space, sum, weights, tile);
      load_weights<F, true, 1>(along, loader, outputs, inputs, output, input, space, next);
    }
  }
  wait_for_sums(sum);
  release_tile(space, (steps - 1) % 2);
  threadgroup_barrier(mem_flags::mem_threadgroup);
}

// The same where the edge of the matrix cuts a block or a step short.
template <typename F, bool KN, uint BM, uint TK, typename X, typename S>
inline void add_edges(thread const S& loader, device const X* x, uint outputs, uint inputs,
                      uint output, uint begin, uint steps, threadgroup X* tiles,
                      thread workspace<X>& space, thread accumulator<BM>& sum) {
  const uint BK = 4 * TK;
  const direction<KN, S::layout_kn> along;
  weight_fragment<X, TK> weights;
  for (uint i = 0; i < steps; ++i) {
    uint input = begin + i * BK;
    copy_tile<BM * BK>(space, x, tiles, 0);
    x += BM * BK;
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

template <typename F, typename T, bool KN, uint BM, uint TK, typename X, typename S>
inline void qmm(thread const S& loader, device const X* x, device T* out,
                thread const LaunchParams& p, threadgroup float* scratch, uint threadgroup_index,
                uint thread_index) {
  const uint BK = 4 * TK;
  uint inputs = KN ? p.rows : p.columns;
  uint outputs = KN ? p.columns : p.rows;
  // Threadgroups that read the same weights are close to each other.
  uint down = (p.M + BM - 1) / BM;
  uint across = (outputs + block_outputs - 1) / block_outputs;
  uint first_row = threadgroup_index % down * BM;
  uint first_output = threadgroup_index / down % across * block_outputs;
  uint split = threadgroup_index / down / across;
  uint steps = (inputs + BK - 1) / BK;
  uint share = (steps + p.split_k - 1) / p.split_k;
  uint first = min(share * split, steps);
  uint end = min(first + share, steps);

  accumulator<BM> sum;
  clear(sum);
  threadgroup X* tiles = (threadgroup X*)scratch;
  workspace<X> space;
  start(space, tiles + 2 * BM * BK, thread_index);
  bool even = !KN || has_g_idx<F>(loader) || share_group<F, TK>(loader);
  // A block that the edge would cut short starts at an earlier output, where weights can be read
  // from there.
  bool can_move = outputs >= block_outputs && (!KN || outputs % 16 == 0);
  bool whole = even && (can_move || first_output + block_outputs <= outputs);
  uint output = whole ? min(first_output, outputs - block_outputs) : first_output;
  uint edge = whole ? max(first, min(end, inputs / BK)) : first;
  x += size_t(first_row) * steps * BK;
  uint lane_output = output + thread_index / 4 * lane_outputs;
  uint lane_input = thread_index % 4 * TK;
  if (first < edge) {
    add_steps<F, KN, BM, TK>(loader, x + size_t(first) * BK * BM, outputs, inputs, lane_output,
                             first * BK + lane_input, edge - first, tiles, space, sum);
  }
  add_edges<F, KN, BM, TK>(loader, x + size_t(edge) * BK * BM, outputs, inputs, lane_output,
                           lane_input + edge * BK, end - edge, tiles, space, sum);

  threadgroup float* block = scratch + thread_index / 32 * 128;
  uint column = output + thread_index / 32 * 16 + thread_index % 16;
  bool inside = column >= first_output && column < outputs;
  out += size_t(split) * p.M * outputs + column;
#pragma unroll
  for (uint i = 0; i < BM / 8; ++i) {
    store_sums(sum, i, block);
    simdgroup_barrier(mem_flags::mem_threadgroup);
    for (uint k = thread_index % 32 / 16; k < 8; k += 2) {
      uint row = first_row + i * 8 + k;
      if (row < p.M && inside) out[size_t(row) * outputs] = T(block[k * 16 + thread_index % 16]);
    }
    simdgroup_barrier(mem_flags::mem_threadgroup);
  }
}
