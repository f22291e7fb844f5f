// GGUF weights: rows of blocks, each row a whole number of blocks
//
//   blocks  uint8 [rows, blocks_per_row * F::bytes]
//
// A format F gives weights and bytes (of a block), run (consecutive weights that share a scale) and
// codes<N>(block, first, q): N of a block's codes from `first` on, and their scale or, with a min,
// scaling (scales.metal). N divides F::scale_block and `first`. Weights that are no codes come as
// they are, with scale 1. Where scale_traits says so, q may be of another type than float.

#include "../scales.metal"
#include "../strips.metal"

struct no_group_params;  // layout_nk.metal has it

// What kernels ask of a loader:
//
//   rows_per_thread       rows that a thread unpacks, one after another
//   qvm_rows      rows that a lane loads at once in a transposed product of few vectors,
//   qvm_columns   and its columns
//   layout_kn         whether a row is an input
//   group_params<N>      what N columns of a group share
//   pairs<F, R>       by inputs only: of R rows, how far apart the two of a pair are (half2_codes)
//   window            strips.metal
struct gguf_loader {
  enum { rows_per_thread = 1, qvm_rows = 8, qvm_columns = 8, layout_kn = 0 };
  template <uint N>
  using group_params = no_group_params;
  template <typename F, uint R>
  struct pairs {
    enum { apart = 1 };
  };
  template <typename F, uint ROWS, uint COLUMNS>
  struct window {
    enum {
      count = ROWS,
      bytes = (COLUMNS + F::weights - 1) / F::weights * F::bytes,
      align = F::bytes % 16 ? F::bytes & (16 - F::bytes % 16) : 16
    };
  };
  device const uint8_t* blocks;
  size_t pitch;                  // from a row to the next, in bytes
  uint first_row, first_column;  // of those in `blocks`
};

template <typename F>
inline gguf_loader gguf(device const uint8_t* blocks, device const uint* sizes) {
  gguf_loader loader = {blocks, size_t(sizes[layout_at]) * F::bytes, 0, 0};
  return loader;
}

// The block of a row that has a column.
template <typename F>
inline device const uint8_t* block_at(thread const gguf_loader& loader, uint row, uint column) {
  size_t block = (column - loader.first_column) / F::weights;
  return loader.blocks + (row - loader.first_row) * loader.pitch + block * F::bytes;
}

// q[0..N) = codes of `row` from `column` on, a multiple of N, and their scaling; N divides
// F::scale_block.
template <typename F, uint N, typename V>
inline scaling codes(thread const gguf_loader& loader, uint row, uint column, thread V* q) {
  device const uint8_t* block = block_at<F>(loader, row, column);
  return scaled_by(F::template codes<N>(block, (column - loader.first_column) % F::weights, q));
}

template <typename F>
inline void prefetch_codes(thread const gguf_loader& loader, uint row, uint column) {
  prefetch(block_at<F>(loader, row, column) + column % F::weights * F::bytes / F::weights);
}

template <typename F>
inline strips strips_of(thread const gguf_loader& loader, uint row, uint column) {
  strips result = {block_at<F>(loader, row, column), loader.pitch};
  return result;
}

template <typename F>
inline gguf_loader placed(thread const gguf_loader& loader, strips at, uint row, uint column) {
  gguf_loader result = {at.first, at.pitch, row, column};
  return result;
}

#include "../layout_nk.metal"
