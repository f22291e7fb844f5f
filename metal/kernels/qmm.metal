// out[split_k, M, outputs] = x @ W.T for a stored W [outputs, inputs] or, with KN, x @ W for a
// stored W [inputs, outputs], in blocks of BM rows of x
//
// x is [M, inputs], packed by pack_activations. A threadgroup of 256 covers a block of BM rows of x
// and 128 outputs. split_k threadgroups share the inputs; split_k_reduce adds up their results.

#include "qmm_block.metal"

// Tiles of BM rows of x and 4 * TK inputs, one after the other.
template <typename X, uint BM, uint TK>
struct packed_x {
  device const X* next;
  uint first_row, M;

  static inline void fetch_tile(thread packed_x& x, thread workspace<X>& space, threadgroup X* tile,
                                uint buffer) {
    const uint size = BM * 4 * TK;
    copy_tile<size>(space, x.next, tile, buffer);
    x.next += size;
  }

  static inline void put_tile(thread packed_x&, threadgroup X*) {}

  static inline void wait_for_tile(thread packed_x&, thread workspace<X>& space, uint buffer) {
    wait_for_buffer(space, buffer);
    wait_for_products();
  }

  static inline void release_tile(thread packed_x&, thread workspace<X>& space, uint buffer) {
    release_buffer(space, buffer);
  }

  static inline uint row_of(thread const packed_x& x, uint i) {
    return x.first_row + i < x.M ? x.first_row + i : uint(no_row);
  }
};

template <typename F, typename T, bool KN, uint BM, uint TK, typename LOADS, typename X, typename S>
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
  packed_x<X, BM, TK> tiles = {x + (size_t(first_row) * steps + first * BM) * BK, first_row, p.M};
  out += size_t(split) * p.M * outputs;
  multiply_block<F, T, KN, BM, TK, LOADS, X>(loader, tiles, out, outputs, inputs, first_output,
                                             first, end, scratch, thread_index);
}
