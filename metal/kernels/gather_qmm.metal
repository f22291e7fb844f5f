// out[M, outputs] = x @ W.T for each pair of a row of x and an expert, with a stored W [outputs,
// inputs] an expert, or with KN x @ W for a stored W [inputs, outputs], by matrix units
//
// ids holds the experts of M pairs, sorted, and order which pairs they are, `choices` for each row
// of x. A threadgroup of 256 covers up to BM pairs with one expert and 128 outputs. It reads the
// rows of x where they lie. An id out of range gives NaN.

#include "expert_tiles.metal"
#include "experts.metal"
#include "qmm_block.metal"

// Where a thread's octet i lies in a tile: its row, and its first input.
template <uint BM>
inline uint octet_row(uint thread_index, uint i) {
  return (thread_index / 4 + 64 * i) % BM;
}
template <uint BM, uint TK>
inline uint octet_input(uint thread_index, uint i) {
  return thread_index % 4 * TK + (thread_index / 4 + 64 * i) / BM * 8;
}

// BM rows that lie anywhere. A thread brings a fixed octet of inputs of a row or two, then those
// beside it: four neighbouring threads bring what four lanes multiply.
template <typename X, uint BM, uint TK>
struct gathered_x {
  enum { octets = BM * TK / 512, rows = BM > 64 ? BM / 64 : 1 };
  device const X* row[rows];
  octet<X> held[octets];
  device const uint* order;  // of the block's pairs
  uint pairs;
  uint input, inputs;
  uint thread_index;
  bool aligned;

  static inline void fetch_tile(thread gathered_x& x, thread workspace<X>&, threadgroup X*, uint) {
    if (x.aligned && x.input + 4 * TK <= x.inputs) {
#pragma unroll
      for (uint i = 0; i < x.octets; ++i) {
        uint input = x.input + octet_input<BM, TK>(x.thread_index, i);
        load_octet(x.row[i % x.rows] + input, x.held[i]);
      }
    } else {
#pragma unroll
      for (uint i = 0; i < x.octets; ++i) {
        uint input = x.input + octet_input<BM, TK>(x.thread_index, i);
        clear(x.held[i]);
#pragma unroll
        for (uint k = 0; k < 8; ++k) {
          if (input + k < x.inputs) put(x.held[i], k, x.row[i % x.rows][input + k]);
        }
      }
    }
    x.input += 4 * TK;
  }

  static inline void put_tile(thread gathered_x& x, threadgroup X* tile) {
#pragma unroll
    for (uint i = 0; i < x.octets; ++i) {
      uint row = octet_row<BM>(x.thread_index, i);
      uint input = octet_input<BM, TK>(x.thread_index, i);
#pragma unroll
      for (uint k = 0; k < 8; k += swizzle_width) {
        store_swizzled(x.held[i], k, tile + swizzled_offset<BM, TK>(row, input + k));
      }
    }
    publish_tile();
  }

  static inline void wait_for_tile(thread gathered_x&, thread workspace<X>&, uint) {
    // First the products: then the other tile may be overwritten.
    wait_for_products();
    threadgroup_barrier(mem_flags::mem_threadgroup);
  }

  static inline void release_tile(thread gathered_x&, thread workspace<X>&, uint) {}

  static inline uint row_of(thread const gathered_x& x, uint i) {
    return i < x.pairs ? x.order[i] : uint(no_row);
  }
};

template <typename X, uint BM, uint TK>
inline gathered_x<X, BM, TK> gathered(device const X* x, device const uint* order,
                                      thread const expert_tile& tile, uint inputs,
                                      thread const LaunchParams& p, uint thread_index) {
  gathered_x<X, BM, TK> rows;
#pragma unroll
  for (uint i = 0; i < rows.rows; ++i) {
    uint at = min((thread_index / 4 + 64 * i) % BM, tile.rows - 1);
    rows.row[i] = x + size_t(order[tile.first + at] / p.choices) * inputs;
  }
  rows.order = order + tile.first;
  rows.pairs = tile.rows;
  rows.input = 0;
  rows.inputs = inputs;
  rows.thread_index = thread_index;
  // Metal's loads need no multiple of 8, but with it Mesa's compiler takes 12 registers less.
  rows.aligned = inputs % 8 == 0 && is_aligned(x, inputs);
  return rows;
}

template <typename F, typename T, bool KN, uint BM, uint TK, typename LOADS, typename X, typename S>
inline void gather_qmm(thread const S& loader, device const X* x, device const uint* order,
                       device T* out, thread const LaunchParams& p, threadgroup float* scratch,
                       thread const expert_tile& tile, uint thread_index) {
  const uint BK = 4 * TK;
  uint inputs = KN ? p.rows : p.columns;
  uint outputs = KN ? p.columns : p.rows;
  uint first_output = tile.part * block_outputs;
  if (tile.rows == 0) return;
  if (tile.expert == p.experts) {
    uint end = min(first_output + block_outputs, outputs);
    for (uint i = 0; i < tile.rows; ++i) {
      store_nan(out + size_t(order[tile.first + i]) * outputs, first_output, end, thread_index);
    }
    return;
  }
  gathered_x<X, BM, TK> rows = gathered<X, BM, TK>(x, order, tile, inputs, p, thread_index);
  multiply_block<F, T, KN, BM, TK, LOADS, X>(loader, rows, out, outputs, inputs, first_output, 0,
                                             (inputs + BK - 1) / BK, scratch, thread_index);
}
