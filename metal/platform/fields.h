// N byte-wide fields, four to a word; a single field is the low byte.
template <uint N>
struct fields {
  uint words[(N + 3) / 4];
};

// low | high << up, field by field.
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

// Bits 2*i and 2*i + 1 of `bits` as field i.
template <uint N>
inline fields<N> spread_pairs(uint bits) {
  fields<N> result;
  for (uint i = 0; i < (N + 3) / 4; ++i) {
    uint halves = (bits >> (8 * i) & 255) * 0x1001 & 0x000f000f;
    result.words[i] = halves * 0x41 & 0x03030303;
  }
  return result;
}
