// How a family's codes come as pairs of halves, for qmv_mma.metal. Each family has a view here that
// gives half2_codes, decode_outputs and, where words pair other inputs than neighbours,
// half2_layout.

// How far apart the two inputs of a pair are, of R inputs.
template <typename F, typename S, uint R>
struct half2_layout {
  enum { pair_stride = 1 };
};

// Codes of BITS bits in words: 16 bits apart where words are whole, else neighbours.
template <uint BITS, uint R>
struct word_pair_stride {
  enum { pair_stride = R * BITS % 32 == 0 && BITS != 3 ? 16 / BITS : 1 };
};
