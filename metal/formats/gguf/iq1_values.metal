// Eight times a value of IQ1: the grid's, which is -1, 0 or 1, and delta, which is 1/8 or -1/8.

#include "../tables/iq1.metal"

// q[0..N) = those of entry `index` from value `first` on.
template <uint N, typename V>
inline void iq1_values(uint index, uint first, bool minus, thread V* q) {
  uint grid = entry(iq1_grid, index) >> 2 * first;
  fields<N> eights;
  for (uint i = 0; i < (N + 3) / 4; ++i) {
    uint four = grid >> 8 * i & (N < 4 ? 3 : 255);
    eights.words[i] = (four * 0x1001 & 0x000f000f) * 0x208 & 0x18181818;
  }
  to_numbers<N>(eights, minus ? 9 : 7, q);
}
