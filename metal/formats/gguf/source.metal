// GGUF weights: rows of blocks, each row a whole number of blocks
//
//   blocks  uint8 [rows, blocks_per_row * F::bytes]
//
// A format F gives weights and bytes (of a block), run (consecutive weights that one decode may
// yield; they share their scales) and decode<N>(block, first, w): N of a block's weights from
// `first` on. N divides F::run and `first`.

struct nothing;

struct gguf_source {
  enum { thread_rows = 1 };
  template <uint N>
  using constants = nothing;
  device const uint8_t* blocks;
  uint blocks_per_row;
};

inline gguf_source gguf(device const uint8_t* blocks, device const uint* sizes) {
  gguf_source source = {blocks, sizes[layout_at]};
  return source;
}

// w[0..N) = the weights of `row` from `column` on, a multiple of N.
template <typename F, uint N>
inline void decode(thread const gguf_source& source, uint row, uint column, thread float* w) {
  const uint run = N < F::run ? N : F::run;
#pragma unroll
  for (uint i = 0; i < N; i += run) {
    size_t block = size_t(row) * source.blocks_per_row + (column + i) / F::weights;
    F::template decode<run>(source.blocks + block * F::bytes, (column + i) % F::weights, w + i);
  }
}

#include "../by_outputs.metal"
