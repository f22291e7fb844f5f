// Sign bits of 8 weights, bit i for weight i.

// Seven bits are stored; the eighth makes the number of ones even.
inline uint even_signs(uint seven) { return seven | (popcount(seven) & 1) << 7; }

inline float signed_by(float value, uint signs, uint i) {
  return as_type<float>(as_type<uint>(value) ^ (signs << (31 - i) & 0x80000000));
}

// Byte i of an 8-byte table entry.
inline float entry_byte(uint low, uint high, uint i) { return byte_of(i < 4 ? low : high, i % 4); }
