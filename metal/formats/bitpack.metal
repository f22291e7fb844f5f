// BITS-bit codes packed into 32-bit words, lowest bits first. 3-bit codes can straddle words: 32 of
// them fill 3 words, and codes 10 and 21 lie across two.

template <uint BITS>
struct bitpack {
  static inline uint shift(uint i) { return i * BITS; }
};

// q[i] = the masked bits of words[i] from `shift` on, less the zero point zero[i].
template <uint N>
inline void fields_subtract_zero(thread const uint* words, uint shift, uint mask,
                                 thread const float* zero, thread float* q) {
  for (uint i = 0; i < N; ++i) q[i] = field_subtract_zero(words[i], shift, mask, zero[i]);
}

// COUNT codes from bit `bit` on, in the low bits of the result; the bits above are others'. Words
// begin at word `at` and lie `stride` apart. `add` is added to each word, modulo 2^32. Where codes
// may straddle words, the word of the last one is read too, without a branch.
template <uint BITS, uint COUNT>
inline uint read_bits(device const uint* words, uint at, uint stride, uint bit, uint add) {
  uint shift = bit % 32;
  uint result = (words[at + bit / 32 * stride] + add) >> shift;
  if (32 % (COUNT * BITS) != 0) {
    uint last = (bit + COUNT * BITS - 1) / 32;
    result |= (words[at + last * stride] + add) << (32 - shift) % 32;
  }
  return result;
}

// q[0..N) = codes first .. first + N - 1 from word `at` on; N divides `first`. `add` is added to each
// word, modulo 2^32.
template <uint BITS, uint N>
inline void unpack(device const uint* words, uint at, uint first, uint add, thread uint* q) {
  const uint limit = BITS == 8 ? 4 : 8;  // codes that fit a word
  const uint count = N < limit ? N : limit;
  at += first / 32 * BITS + first % 32 * BITS / 32;
  uint start = N * BITS % 32 == 0 ? 0 : first * BITS % 32;
#pragma unroll
  for (uint i = 0; i < N; i += count) {
    split<count, bitpack<BITS>>(read_bits<BITS, count>(words, at, 1, start + i * BITS, add),
                                (1u << BITS) - 1, 0, q + i);
  }
}

// The same from word `at` on, as values of type V, less the zero point zero[i].
template <uint BITS, uint N, typename V>
inline void unpack_subtract_zero(device const uint* words, uint at, uint first,
                                 thread const V* zero, thread V* q) {
  const uint limit = BITS == 8 ? 4 : 8;
  const uint count = N < limit ? N : limit;
  at += first / 32 * BITS;  // 32 codes fill whole words
  uint rest = first % 32 * BITS / 32;
  if (N == 1) {
    at += rest;
  } else {
    // Neighbours load together if only what is known differs.
    words += at;
    at = rest;
  }
  uint start = N * BITS % 32 == 0 ? 0 : first * BITS % 32;
#pragma unroll
  for (uint i = 0; i < N; i += count) {
    uint word = read_bits<BITS, count>(words, at, 1, start + i * BITS, 0);
    split_subtract_zero<count, bitpack<BITS>>(word, (1u << BITS) - 1, 0, zero + i, q + i);
  }
}
