// GGUF weights: rows of blocks, each row a whole number of blocks
//
//   blocks  uint8 [rows, blocks_per_row * F::bytes]
//
// A format F gives weights and bytes (of a block), run (consecutive weights that share a scale) and
// codes<N>(block, first, q): N of a block's codes from `first` on, and their scale or, with a min,
// scaling (scales.metal). N divides F::run and `first`. Weights that are no codes come as they are,
// with scale 1. Where scale_of says so, q may be of another type than float.

#include "../scales.metal"
#include "../strips.metal"

struct nothing;  // by_outputs.metal has it

// What kernels ask of a source:
//
//   thread_rows       rows that a thread unpacks, one after another
//   product_rows      rows that a lane loads at once in a transposed product of few vectors,
//   product_columns   and its columns
//   by_inputs         whether a row is an input
//   constants<N>      what N columns of a group share
//   pairs<F, R>       by inputs only: of R rows, how far apart the two of a pair are (paired_codes)
//   window            strips.metal
struct gguf_source {
  enum { thread_rows = 1, product_rows = 8, product_columns = 8, by_inputs = 0 };
  template <uint N>
  using constants = nothing;
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
inline gguf_source gguf(device const uint8_t* blocks, device const uint* sizes) {
  gguf_source source = {blocks, size_t(sizes[layout_at]) * F::bytes, 0, 0};
  return source;
}

// The block of a row that has a column.
template <typename F>
inline device const uint8_t* block_at(thread const gguf_source& source, uint row, uint column) {
  size_t block = (column - source.first_column) / F::weights;
  return source.blocks + (row - source.first_row) * source.pitch + block * F::bytes;
}

// q[0..N) = codes of `row` from `column` on, a multiple of N, and their scaling; N divides F::run.
template <typename F, uint N, typename V>
inline scaling codes(thread const gguf_source& source, uint row, uint column, thread V* q) {
  device const uint8_t* block = block_at<F>(source, row, column);
  return scaled_by(F::template codes<N>(block, (column - source.first_column) % F::weights, q));
}

template <typename F>
inline void prefetch_codes(thread const gguf_source& source, uint row, uint column) {
  prefetch(block_at<F>(source, row, column) + column % F::weights * F::bytes / F::weights);
}

template <typename F>
inline strips strips_of(thread const gguf_source& source, uint row, uint column) {
  strips result = {block_at<F>(source, row, column), source.pitch};
  return result;
}

template <typename F>
inline gguf_source placed(thread const gguf_source& source, strips at, uint row, uint column) {
  gguf_source result = {at.first, at.pitch, row, column};
  return result;
}

#include "../by_outputs.metal"
