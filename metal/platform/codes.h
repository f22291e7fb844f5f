// Codes as numbers, where integers become floats as fast as they become multiples of a unit.

inline float byte_unit() { return 1.0f; }

// Byte k of a word, negative where the lowest bit of `sign` is set.
inline float signed_byte(uint word, uint k, uint sign) {
  return as_type<float>(as_type<uint>(byte_of(word, k)) ^ sign << 31);
}

// q[i] * the returned unit = field i.
template <uint N, typename V>
inline float to_numbers(fields<N> codes, thread V* q) {
  to_numbers<N>(codes, 0, q);
  return 1.0f;
}

// q[i] = (byte i >> shift & mask) - number; mask << shift fits a byte.
template <uint N, uint ALIGN, typename V>
inline void load_codes(device const uint8_t* p, uint shift, uint mask, uint number, thread V* q) {
  to_numbers<N>(load_fields<N, ALIGN>(p, shift, mask), number, q);
}

// q[i] * the returned unit = byte i >> shift & mask.
template <uint N, uint ALIGN, typename V>
inline float load_codes(device const uint8_t* p, uint shift, uint mask, thread V* q) {
  load_codes<N, ALIGN>(p, shift, mask, 0, q);
  return 1.0f;
}

// q[i] = byte i, which is signed. Flipping the sign bit makes an unsigned byte that is 128 larger.
template <uint N, uint ALIGN, typename V>
inline void load_signed(device const uint8_t* p, thread V* q) {
  fields<N> bytes = load_fields<N, ALIGN>(p, 0, 255);
  for (uint i = 0; i < (N + 3) / 4; ++i) bytes.words[i] ^= 0x80808080;
  to_numbers<N>(bytes, 128, q);
}

// q[i] = the table's value for byte i >> shift & 15.
template <uint N, uint ALIGN, typename V>
inline void look_up(device const uint8_t* p, uint shift, const int8_t* table, thread V* q) {
  look_up<N>(load_fields<N, ALIGN>(p, shift, 15), table, q);
}

// q[i] * the returned unit = twice the e2m1 float in byte i >> shift & 15, of which `table` has the
// values.
template <uint N, uint ALIGN, typename V>
inline float load_e2m1(device const uint8_t* p, uint shift, const int8_t* table, thread V* q) {
  look_up<N, ALIGN>(p, shift, table, q);
  return 1.0f;
}
