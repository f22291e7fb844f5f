// A stream of BITS-bit codes in 32-bit words, lowest bits first. Codes of 3 bits may straddle:
// 32 of them fill 3 words, and codes 10 and 21 lie across two.

template <uint BITS>
struct bitpack {
  static inline uint shift(uint i) { return i * BITS; }
};

// How far apart the two of a pair are, of R codes: 16 bits where words are whole, else neighbours.
template <uint BITS, uint R>
struct word_pair_stride {
  enum { apart = R * BITS % 32 == 0 && BITS != 3 ? 16 / BITS : 1 };
};

// q[i] = the masked bits of words[i] from `shift` on, less the number of offset[i].
template <uint N>
inline void fields_subtract_zero(thread const uint* words, uint shift, uint mask,
                                 thread const float* offset, thread float* q) {
  for (uint i = 0; i < N; ++i) q[i] = field_subtract_zero(words[i], shift, mask, offset[i]);
}

// RUN codes from `bit` on, as low bits, of words that lie `stride` apart. `add` is added to each
// word, modulo 2^32.
template <uint BITS, uint RUN>
inline uint read_bits(device const uint* words, size_t stride, uint bit, uint add) {
  uint shift = bit % 32;
  uint result = (words[bit / 32 * stride] + add) >> shift;
  if (32 % (RUN * BITS) != 0 && shift + RUN * BITS > 32) {
    result |= (words[(bit / 32 + 1) * stride] + add) << (32 - shift);
  }
  return result;
}

// The same from code `first` on, words as they are.
template <uint BITS, uint RUN>
inline uint read_bits_at(device const uint* words, size_t stride, uint first) {
  size_t bit = size_t(first) * BITS;
  return read_bits<BITS, RUN>(words + bit / 32 * stride, stride, uint(bit % 32), 0);
}

// q[0..N) = codes first .. first + N - 1; N divides `first`. `add` is added to each word, modulo
// 2^32.
template <uint BITS, uint N>
inline void unpack(device const uint* words, size_t first, uint add, thread uint* q) {
  const uint most = BITS == 8 ? 4 : 8;  // codes of a window, which fits a word
  const uint run = N < most ? N : most;
  words += first * BITS / 32;
  uint start = N * BITS % 32 == 0 ? 0 : uint(first * BITS % 32);
  for (uint i = 0; i < N; i += run) {
    split<run, bitpack<BITS>>(read_bits<BITS, run>(words, 1, start + i * BITS, add),
                              (1u << BITS) - 1, 0, q + i);
  }
}

// The same as numbers, less that of offset[i].
template <uint BITS, uint N, typename V>
inline void unpack_subtract_zero(device const uint* words, size_t first, thread const V* offset,
                                 thread V* q) {
  const uint most = BITS == 8 ? 4 : 8;
  const uint run = N < most ? N : most;
  words += first * BITS / 32;
  uint start = N * BITS % 32 == 0 ? 0 : uint(first * BITS % 32);
  for (uint i = 0; i < N; i += run) {
    split_subtract_zero<run, bitpack<BITS>>(read_bits<BITS, run>(words, 1, start + i * BITS, 0),
                                            (1u << BITS) - 1, 0, offset + i, q + i);
  }
}
