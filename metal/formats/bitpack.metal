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

// COUNT codes from bit `bit` on, in the low bits of the result. Words lie `stride` apart. `add` is
// added to each word, modulo 2^32.
template <uint BITS, uint COUNT>
inline uint read_bits(device const uint* words, size_t stride, uint bit, uint add) {
  uint shift = bit % 32;
  uint result = (words[bit / 32 * stride] + add) >> shift;
  if (32 % (COUNT * BITS) != 0 && shift + COUNT * BITS > 32) {
    result |= (words[(bit / 32 + 1) * stride] + add) << (32 - shift);
  }
  return result;
}

// The same from code `first` on, with nothing added.
template <uint BITS, uint COUNT>
inline uint read_bits_at(device const uint* words, size_t stride, uint first) {
  size_t bit = size_t(first) * BITS;
  return read_bits<BITS, COUNT>(words + bit / 32 * stride, stride, uint(bit % 32), 0);
}

// q[0..N) = codes first .. first + N - 1; N divides `first`. `add` is added to each word, modulo
// 2^32.
template <uint BITS, uint N>
inline void unpack(device const uint* words, size_t first, uint add, thread uint* q) {
  const uint limit = BITS == 8 ? 4 : 8;  // codes that fit a word
  const uint count = N < limit ? N : limit;
  words += first * BITS / 32;
  uint start = N * BITS % 32 == 0 ? 0 : uint(first * BITS % 32);
  for (uint i = 0; i < N; i += count) {
    split<count, bitpack<BITS>>(read_bits<BITS, count>(words, 1, start + i * BITS, add),
                                (1u << BITS) - 1, 0, q + i);
  }
}

// The same as values of type V, less the zero point zero[i].
template <uint BITS, uint N, typename V>
inline void unpack_subtract_zero(device const uint* words, size_t first, thread const V* zero,
                                 thread V* q) {
  const uint limit = BITS == 8 ? 4 : 8;
  const uint count = N < limit ? N : limit;
  words += first * BITS / 32;
  uint start = N * BITS % 32 == 0 ? 0 : uint(first * BITS % 32);
  for (uint i = 0; i < N; i += count) {
    split_subtract_zero<count, bitpack<BITS>>(read_bits<BITS, count>(words, 1, start + i * BITS, 0),
                                              (1u << BITS) - 1, 0, zero + i, q + i);
  }
}
