// Formats whose inputs come in groups that share scales and zero points.

// Groups of `size` inputs. A single group comes as the size 2^31.
struct grouping {
  uint size, multiplier, shift;
};

inline grouping grouping_of(device const uint* layout) {
  grouping result = {layout[0], layout[1], layout[2]};
  return result;
}

// input / groups.size
inline uint group_of(uint input, grouping groups) {
  return divided(input, groups.multiplier, groups.shift);
}

// What N columns of a group share; zero points as offset_of gives them.
template <uint N>
struct group_constants {
  float zero[N];
  float scale[N];
};
