// Codes in planes: byte i of a plane holds bits of weight i and of weights one or more planes
// further on.

// q[i] = (byte i >> shift & mask) - number; mask << shift fits a byte.
template <uint N, uint ALIGN, typename V>
inline void load_codes(device const uint8_t* p, uint shift, uint mask, uint number, thread V* q) {
  to_numbers<N>(load_fields<N, ALIGN>(p, shift, mask), number, q);
}
