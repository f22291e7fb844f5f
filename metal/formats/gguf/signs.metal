// Sign bits of 8 weights, bit i for weight i.

// Seven bits are stored; the eighth makes the number of ones even.
inline uint even_signs(uint seven) { return seven | (popcount(seven) & 1) << 7; }

inline float signed_by(float value, uint signs, uint i) {
  return as_type<float>(as_type<uint>(value) ^ (signs << (31 - i) & 0x80000000));
}

// q[i] = byte first + i of an 8-byte LUT entry, with its sign.
template <uint N>
inline void signed_lut(uint low, uint high, uint first, uint signs, thread float* q) {
  for (uint i = 0; i < N; ++i) {
    uint at = first + i;
    q[i] = signed_by(byte_of(at < 4 ? low : high, at % 4), signs, i);
  }
}
