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
  return fast_div(input, groups.multiplier, groups.shift);
}

// The zero point z, to be taken off codes.
inline void set_zero_point(uint z, thread float& offset) { offset = as_zero_point(z); }

// What N columns of a group share, as the type V of numbers; zero points as set_zero_point gives
// them.
template <uint N, typename V = float>
struct group_params_of {
  V zero[N];
  V scale[N];
};
