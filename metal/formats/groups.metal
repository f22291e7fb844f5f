// Formats whose inputs come in groups that share scales and zero points.

// The group of an input. Sizes are powers of two nearly always, and a shift costs less; a single
// group comes as the size 2^31.
inline uint group_of(uint input, uint group_size) {
  if ((group_size & (group_size - 1)) == 0) return input >> popcount(group_size - 1);
  return input / group_size;
}

// What N columns of a group share; zero points as offset_of gives them.
template <uint N>
struct group_constants {
  float zero[N];
  float scale[N];
};
