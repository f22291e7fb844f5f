// A stream of BITS-bit codes in 32-bit words, lowest bits first. Codes of 3 bits may straddle:
// 32 of them fill 3 words, and codes 10 and 21 lie across two.

// q[0..N) = codes first .. first + N - 1; N divides `first`. `add` is added to each word, modulo
// 2^32.
template <uint BITS, uint N>
inline void unpack(device const uint* words, size_t first, uint add, thread uint* q) {
  static_assert(N * BITS <= 32 || N * BITS % 32 == 0, "a run is within a word or whole words");
  const uint mask = (1u << BITS) - 1;
  words += first * BITS / 32;
  if (N * BITS <= 32) {
    uint shift = uint(first * BITS % 32);
    uint window = (words[0] + add) >> shift;
    if (32 % (N * BITS) != 0 && shift + N * BITS > 32) window |= (words[1] + add) << (32 - shift);
    for (uint i = 0; i < N; ++i) q[i] = window >> (i * BITS) & mask;
  } else {
    for (uint i = 0; i < N; ++i) {
      uint word = i * BITS / 32;
      uint shift = i * BITS % 32;
      uint code = (words[word] + add) >> shift;
      if (shift + BITS > 32) code |= (words[word + 1] + add) << (32 - shift);
      q[i] = code & mask;
    }
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
