// Eight times a value of IQ1: the grid's, which is -1, 0 or 1, and delta, which is 1/8 or -1/8.

#include "../tables/iq1.metal"

// q[0..N) = those of lut `index` from value `first` on.
template <uint N, typename V>
inline void iq1_values(uint index, uint first, bool minus, thread V* q) {
  fields<N> eights = spread_pairs<N>(lut(iq1_grid, index) >> 2 * first);
  for (uint i = 0; i < (N + 3) / 4; ++i) eights.words[i] <<= 3;
  to_numbers<N>(eights, minus ? 9 : 7, q);
}
