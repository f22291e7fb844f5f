// A stream of BITS-bit codes in 32-bit words, lowest bits first. Codes of 3 bits may straddle:
// 32 of them fill 3 words, and codes 10 and 21 lie across two.

template <uint BITS>
struct stream {
  static inline uint shift(uint i) { return i * BITS; }
};

// q[0..N) = codes first .. first + N - 1 of a stream whose words lie `stride` apart; N divides
// `first`. `add` is added to each word, modulo 2^32.
template <uint BITS, uint N>
inline void unpack(device const uint* words, size_t stride, size_t first, uint add,
                   thread uint* q) {
  const uint most = BITS == 8 ? 4 : 8;  // codes of a window, which fits a word
  const uint run = N < most ? N : most;
  words += first * BITS / 32 * stride;
  uint start = N * BITS % 32 == 0 ? 0 : uint(first * BITS % 32);
  for (uint i = 0; i < N; i += run) {
    uint bit = start + i * BITS;
    uint word = bit / 32;
    uint shift = bit % 32;
    uint window = (words[word * stride] + add) >> shift;
    if (32 % (run * BITS) != 0 && shift + run * BITS > 32) {
      window |= (words[(word + 1) * stride] + add) << (32 - shift);
    }
    split<run, stream<BITS>>(window, (1u << BITS) - 1, 0, q + i);
  }
}

// Code `index` of a stream whose words lie `stride` apart.
template <uint BITS>
inline uint code_at(device const uint* words, size_t stride, uint index) {
  size_t bit = size_t(index) * BITS;
  uint shift = uint(bit % 32);
  words += bit / 32 * stride;
  uint code = words[0] >> shift;
  if (32 % BITS != 0 && shift + BITS > 32) code |= words[stride] << (32 - shift);
  return code & ((1u << BITS) - 1);
}
