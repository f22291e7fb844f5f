// Codes of IQ1_S and IQ1_M: 8 * (grid + delta), with grid -1, 0 or 1 and delta 1/8 or -1/8.

// q[0..N) = the codes of grid entry `index` from value `first` on. `minus` is the sign of delta.
template <uint N, typename V>
inline void iq1_values(device const uint* table, uint index, uint first, bool minus, thread V* q) {
  fields<N> eights = spread_pairs<N>(lut((device const ushort*)table, index) >> 2 * first);
  for (uint i = 0; i < (N + 3) / 4; ++i) eights.words[i] <<= 3;
  to_numbers<N>(eights, minus ? 9 : 7, q);
}
