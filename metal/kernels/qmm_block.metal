// What qmm and gather_qmm share: a block of BM rows of x times 128 outputs, in steps of BK = 4 * TK
// inputs
//
// Each of a threadgroup's 8 simdgroups decodes 16 outputs, rounded to x's type. It multiplies them by
// all BM rows, which lie in threadgroup memory, and accumulates in float32.
// Where the rows come from is the kernel's matter. Its source x, a struct, has for tiles in turn:
//
//   fetch_tile(x, space, tile, buffer)  begins to bring the next tile to one of two buffers
//   put_tile(x, tile)                   brings what is still held in registers
//   wait_for_tile(x, space, buffer)     returns when the tile is there, and products are done
//   release_tile(x, space, buffer)      this simdgroup is done with the tile
//   row_of(x, i)                        the row of the result that row i of the block makes, or
//                                       no_row
//
// What a platform's matrix unit gives, for X a type of two bytes:
//
//   weight_fragment<X, TK>      a lane's weights: 2 outputs, TK inputs
//   compute_type<X, S>          the type that they are computed in, by a format's scale_traits
//   round_to<N>(space, w, output, first, fragment)
//                               puts N of a lane's weights there, rounded to X
//   round_columns<N>(space, w, output, first, fragment)
//                               puts N of the 16 outputs there, of one input: of the eight from
//                               `first` on that four lanes have the one that lane / 4 says
//   whole_steps                 the struct below that adds steps inside the matrix
//   accumulator<BM>, clear, store_sums(sum, eighth, to)
//                               16 outputs x BM sums of a simdgroup; eight rows of them, [8, 16]
//   swizzle_width, swizzled_offset<BM, TK>(row, input), store_swizzled
//                               how a tile of x lies in memory (pack_activations)
//   workspace<X>, start<TK>     what lanes share
//   copy_tile<COUNT>(space, from, to, buffer), wait_for_buffer(space, buffer)
//                               begins to copy a tile to one of two buffers; returns when it is there
//   release_buffer(space, buffer)
//                               this simdgroup is done with the tile, so that it may be overwritten
//   multiply_add<HALF>(space, sum, fragment, tile)
//                               adds half of the k-slices, and may run on: fragment and tile stay as
//                               they are until wait_for_products or wait_for_sums returns

#include "qmm_loads.metal"
#include "x_rows.metal"

enum : uint { no_row = 0xffffffffu };

// Adds `steps` steps from input `begin` on. Without WHOLE, the edge of the matrix may cut them short.
// LOADS is one of the structs of qmm_loads.metal. While one step is multiplied, the weights of the
// next are decoded and its x is fetched. A step runs in two halves, because a simdgroup can stall
// where it starts products: it decodes in between.
struct overlapped_steps {
  enum { tiles = 2 };  // of x in threadgroup memory
  template <typename F, bool WHOLE, uint BM, uint TK, typename LOADS, typename X, typename A,
            typename S>
  static inline void add(thread const S& loader, thread A& x, uint outputs, uint inputs,
                         uint output, uint begin, uint steps, threadgroup X* tiles,
                         thread workspace<X>& space, thread accumulator<BM>& sum) {
    const uint BK = 4 * TK;
    const uint size = BM * BK;
    // Fragments and tiles are double-buffered: products read one while the other is filled.
    weight_fragment<X, TK> even, odd;
    A::fetch_tile(x, space, tiles, 0);
    LOADS::template fill<F, WHOLE, 0>(loader, outputs, inputs, output, begin, space, even);
    LOADS::template fill<F, WHOLE, 1>(loader, outputs, inputs, output, begin, space, even);
    A::put_tile(x, tiles);
    for (uint i = 0; i < steps; i += 2) {
#pragma unroll
      for (uint k = 0; k < 2; ++k) {
        if (i + k == steps) break;
        thread weight_fragment<X, TK>& weights = k == 0 ? even : odd;
        thread weight_fragment<X, TK>& next = k == 0 ? odd : even;
        threadgroup const X* tile = tiles + k * size;
        threadgroup X* other = tiles + (1 - k) * size;
        A::wait_for_tile(x, space, k);
        if (i + k > 0) A::release_tile(x, space, 1 - k);
        multiply_add<0>(space, sum, weights, tile);
        if (i + k + 1 < steps) A::fetch_tile(x, space, other, 1 - k);
        // The last step decodes its weights again. With a branch instead, decoding would not overlap
        // with the products.
        uint input = begin + min(i + k + 1, steps - 1) * BK;
        LOADS::template fill<F, WHOLE, 0>(loader, outputs, inputs, output, input, space, next);
        multiply_add<1>(space, sum, weights, tile);
        LOADS::template fill<F, WHOLE, 1>(loader, outputs, inputs, output, input, space, next);
        if (i + k + 1 < steps) A::put_tile(x, other);
      }
    }
    wait_for_sums(sum);
    A::release_tile(x, space, (steps - 1) % 2);
    threadgroup_barrier(mem_flags::mem_threadgroup);
  }
};

// The same with one step after the other.
struct steps_in_turn {
  enum { tiles = 1 };
  template <typename F, bool WHOLE, uint BM, uint TK, typename LOADS, typename X, typename A,
            typename S>
  static inline void add(thread const S& loader, thread A& x, uint outputs, uint inputs,
                         uint output, uint begin, uint steps, threadgroup X* tiles,
                         thread workspace<X>& space, thread accumulator<BM>& sum) {
    const uint BK = 4 * TK;
    weight_fragment<X, TK> weights;
    for (uint i = 0; i < steps; ++i) {
      uint input = begin + i * BK;
      A::fetch_tile(x, space, tiles, 0);
      LOADS::template fill<F, WHOLE, 0>(loader, outputs, inputs, output, input, space, weights);
      LOADS::template fill<F, WHOLE, 1>(loader, outputs, inputs, output, input, space, weights);
      A::put_tile(x, tiles);
      A::wait_for_tile(x, space, 0);
      multiply_add<0>(space, sum, weights, tiles);
      multiply_add<1>(space, sum, weights, tiles);
      wait_for_sums(sum);
      A::release_tile(x, space, 0);
      threadgroup_barrier(mem_flags::mem_threadgroup);
    }
  }
};

// Steps `first` to `end` - 1 of the block's outputs from `first_output` on, stored to `out`, whose
// rows have `outputs` elements.
template <typename F, typename T, bool KN, uint BM, uint TK, typename LOADS, typename X, typename A,
          typename S>
inline void multiply_block(thread const S& loader, thread A& x, device T* out, uint outputs,
                           uint inputs, uint first_output, uint first, uint end,
                           threadgroup float* scratch, uint thread_index) {
  const uint BK = 4 * TK;
  accumulator<BM> sum;
  clear(sum);
  threadgroup X* tiles = (threadgroup X*)scratch;
  workspace<X> space;
  start<TK>(space, tiles + whole_steps::tiles * BM * BK, thread_index);
  bool even = !KN || share_group<F, TK>(loader);
  // A block that the edge would cut short starts at an earlier output, where weights can be read
  // from there.
  bool can_move = outputs >= block_outputs && (!KN || outputs % 16 == 0);
  bool whole = even && (can_move || first_output + block_outputs <= outputs);
  uint output = whole ? min(first_output, outputs - block_outputs) : first_output;
  uint edge = whole ? max(first, min(end, inputs / BK)) : first;
  uint lane_output = output + thread_index / 4 * lane_outputs;
  uint lane_input = thread_index % 4 * TK;
  if (first < edge) {
    whole_steps::add<F, true, BM, TK, LOADS>(loader, x, outputs, inputs, lane_output,
                                             first * BK + lane_input, edge - first, tiles, space,
                                             sum);
  }
  steps_in_turn::add<F, false, BM, TK, LOADS>(loader, x, outputs, inputs, lane_output,
                                              lane_input + edge * BK, end - edge, tiles, space,
                                              sum);

  threadgroup float* block = scratch + thread_index / 32 * 128;
  uint column = output + thread_index / 32 * 16 + thread_index % 16;
  bool inside = column >= first_output && column < outputs;
  if (inside) out += results<F>::place(loader, column);
#pragma unroll
  for (uint i = 0; i < BM / 8; ++i) {
    store_sums(sum, i, block);
    simdgroup_barrier(mem_flags::mem_threadgroup);
    for (uint k = thread_index % 32 / 16; k < 8; k += 2) {
      uint row = A::row_of(x, i * 8 + k);
      if (row != no_row && inside) {
        out[size_t(row) * outputs] = T(block[k * 16 + thread_index % 16]);
      }
    }
    simdgroup_barrier(mem_flags::mem_threadgroup);
  }
}
