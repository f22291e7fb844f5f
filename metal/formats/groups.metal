// For formats whose inputs form groups that share scales and zero points.

// Groups of `size` inputs; a single group has size 2^31. fast_div takes the other two numbers.
struct grouping {
  uint size, multiplier, shift;
};

inline grouping grouping_of(thread const LaunchParams& p) {
  grouping result = {p.group_size, p.group_multiplier, p.group_shift};
  return result;
}

// input / groups.size
inline uint group_of(uint input, grouping groups) {
  return fast_div(input, groups.multiplier, groups.shift);
}

// Stores the zero point z in the form that field_subtract_zero takes.
inline void set_zero_point(uint z, thread float& zero) { zero = as_zero_point(z); }

// The scales and zero points of N columns in one group. Weights are computed as the type V, and
// set_zero_point makes the zero points.
template <uint N, typename V = float>
struct kn_group_params {
  V zero[N];
  V scale[N];
};
