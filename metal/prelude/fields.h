// Fields of N bytes, four to a word; a single one in the low byte.
template <uint N>
struct fields {
  uint words[(N + 3) / 4];
};
