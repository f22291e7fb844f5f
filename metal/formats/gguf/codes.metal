// Codes in planes: byte i holds the bits of weight i, and of others a plane's length away.

// q[i] = bits shift and up of byte i, as many as mask has, less a number.
template <uint N, uint ALIGN, typename V>
inline void load_codes(device const uint8_t* p, uint shift, uint mask, uint number, thread V* q) {
  to_numbers<N>(load_fields<N, ALIGN>(p, shift, mask), number, q);
}
