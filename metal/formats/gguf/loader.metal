// GGUF weights: rows of blocks, each row a whole number of blocks
//
//   blocks  uint8 [rows, blocks_per_row * F::bytes]
//
// A format F is a struct with these members:
//
//   weights, bytes       size of a block; the registry repeats both numbers
//   scale_block          consecutive weights that share a scale: codes gives at most as many
//   codes<N>(block, first, table, q)
//                        q[0..N) = N of a block's codes from `first` on. Returns their scale or,
//                        with a min, their scaling (scales.metal). N divides scale_block and
//                        `first`. A format of plain floats gives the floats, with scale 1.
//   exact_block,         optional: weights whose codes, nested scales included, are integers of at
//   exact_bits           most exact_bits bits, times one scale
//   int8_codes           optional: codes are whole numbers of -128 to 127, of which 16 or more share
//                        a scale, and q may be of int8_t
//   lut_words            optional: words of 32 bits of `table`, which lut() reads; a file in tables/
//                        has them
//
// Addresses take the run of 32 weights first and then what is left of `first`, which is often known
// and then part of the load.
//
// has_min and scale_traits are specialised after the struct where the defaults do not fit. Where
// scale_traits allows it, q may have another type than float. The registry reads the numbers.

#include "../scales.metal"

struct no_group_params;  // defined in layout_nk.metal

struct gguf_loader {
  enum { layout_kn = 0, rows_per_thread = 1, qvm_rows = 8, qvm_columns = 8 };
  template <uint N>
  using group_params = no_group_params;
  device const uint8_t* blocks;
  uint blocks_per_row;
  device const uint* table;
};

template <uint BYTES>
struct gguf_block {
  uint8_t bytes[BYTES];
};

template <typename F>
inline gguf_loader gguf(device const uint8_t* blocks, device const uint* table,
                        thread const LaunchParams& p) {
  gguf_loader loader = {blocks, p.blocks_per_row, table};
  return loader;
}

// The block that holds `column` of `row`. A matrix has less than 2^32 blocks, as encoded.py sees to;
// single floats may be more.
template <typename F>
inline device const uint8_t* block_at(thread const gguf_loader& loader, uint row, uint column) {
  if (F::weights == 1) {
    size_t pitch = size_t(loader.blocks_per_row) * F::bytes;
    return loader.blocks + row * pitch + size_t(column) * F::bytes;
  }
  uint at = row * loader.blocks_per_row + column / F::weights;
  return ((device const gguf_block<F::bytes>*)loader.blocks)[at].bytes;
}

// About where 32 codes of `row` from `column` on are.
template <typename F>
inline device const uint8_t* codes_at(thread const gguf_loader& loader, uint row, uint column) {
  return block_at<F>(loader, row, column) + column % F::weights * F::bytes / F::weights;
}

// q[0..N) = codes of `row` from `column` on. Returns their scaling. N divides `column` and
// F::scale_block.
template <typename F, uint N, typename V>
inline scaling row_codes(thread const gguf_loader& loader, uint row, uint column, thread V* q) {
  device const uint8_t* block = block_at<F>(loader, row, column);
  return scaled_by(F::template codes<N>(block, column % F::weights, loader.table, q));
}

// A row consists of whole blocks (the default is in qmv.metal).
template <typename F, uint N>
inline bool whole_columns(thread const gguf_loader&) {
  return F::weights % N == 0;
}

#include "../layout_nk.metal"
#include "../separate_rows.metal"
