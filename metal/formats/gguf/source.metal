// GGUF weights: rows of blocks, each row a whole number of blocks
//
//   blocks  uint8 [rows, blocks_per_row * F::bytes]
//
// A format F gives weights and bytes (of a block), run (consecutive weights that share a scale) and
// codes<N>(block, first, q): N of a block's codes from `first` on, and their scale or, with a min,
// scaling (scales.metal). N divides F::run and `first`. Weights that are no codes come as they are,
// with scale 1.

#include "../scales.metal"

struct nothing;  // by_outputs.metal has it

// What kernels ask of a source:
//
//   thread_rows    rows that a thread unpacks, one after another
//   product_rows   rows that a lane loads at once in a transposed product of few vectors
//   by_inputs      whether a row is an input
//   constants<N>   what N columns of a group share
struct gguf_source {
  enum { thread_rows = 1, product_rows = 8, by_inputs = 0 };
  template <uint N>
  using constants = nothing;
  device const uint8_t* blocks;
  uint blocks_per_row;
};

inline gguf_source gguf(device const uint8_t* blocks, device const uint* sizes) {
  gguf_source source = {blocks, sizes[layout_at]};
  return source;
}

// q[0..N) = codes of `row` from `column` on, a multiple of N, and their scaling; N divides F::run.
template <typename F, uint N>
inline scaling codes(thread const gguf_source& source, uint row, uint column, thread float* q) {
  size_t block = size_t(row) * source.blocks_per_row + column / F::weights;
  return scaled_by(F::template codes<N>(source.blocks + block * F::bytes, column % F::weights, q));
}

template <typename F>
inline void prefetch_codes(thread const gguf_source& source, uint row, uint column) {
  size_t block = size_t(row) * source.blocks_per_row + column / F::weights;
  prefetch(source.blocks + block * F::bytes + column % F::weights * F::bytes / F::weights);
}

#include "../by_outputs.metal"
