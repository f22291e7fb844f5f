// How a family's codes become pairs of halves for qmv_mma.metal. Each family has a view, a file in
// this folder. It defines half2_codes and decode_outputs, and half2_layout where a pair does not
// hold neighbouring inputs.

// The distance between the two inputs of a pair, where a lane takes R inputs.
template <typename F, typename S, uint R>
struct half2_layout {
  enum { pair_stride = 1 };
};

// BITS-bit codes: a pair holds codes 16 bits apart where R codes fill whole words, else neighbours.
template <uint BITS, uint R>
struct word_pair_stride {
  enum { pair_stride = R * BITS % 32 == 0 && BITS != 3 ? 16 / BITS : 1 };
};
