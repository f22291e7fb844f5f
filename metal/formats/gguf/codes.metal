// Codes in planes: byte i holds the bits of weight i, and of others a plane's length away.

// q[i] = bits shift and up of byte i, as many as mask has, less a number.
template <uint N, uint ALIGN>
inline void load_codes(device const uint8_t* p, uint shift, uint mask, uint number,
                       thread float* q) {
  to_floats<N>(load_fields<N, ALIGN>(p, shift, mask), number, q);
}

// Low bits and, from bit `up` on, high ones.
template <uint N>
inline fields<N> join(fields<N> low, fields<N> high, uint up) {
  for (uint i = 0; i < (N + 3) / 4; ++i) low.words[i] |= high.words[i] << up;
  return low;
}

// Bit i of `bits` as field i.
template <uint N>
inline fields<N> spread(uint bits) {
  fields<N> result;
  for (uint i = 0; i < (N + 3) / 4; ++i) {
    result.words[i] = (bits >> (4 * i) & 15) * 0x00204081 & 0x01010101;
  }
  return result;
}
