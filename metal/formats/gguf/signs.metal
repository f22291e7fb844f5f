// Sign bits of 8 weights, bit i for weight i.

// Seven bits are stored; the eighth makes the number of ones even.
inline uint even_signs(uint seven) { return seven | (popcount(seven) & 1) << 7; }

// q[i] * the returned unit = byte first + i of an 8-byte LUT entry, with its sign.
template <uint N, typename V>
inline float signed_lut(uint low, uint high, uint first, uint signs, thread V* q) {
  for (uint i = 0; i < N; ++i) {
    uint at = first + i;
    q[i] = signed_byte(at < 4 ? low : high, at % 4, signs >> i);
  }
  return byte_unit();
}
