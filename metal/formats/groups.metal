// Formats whose inputs come in groups that share scales and zero points.

// Groups of `size` inputs. A single group comes as the size 2^31.
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

// The zero point z, in the form that subtract_zero takes.
inline void set_zero_point(uint z, thread float& zero) { zero = as_zero_point(z); }

// What N columns of a group share, as the type V that weights are computed in; zero points as
// set_zero_point gives them.
template <uint N, typename V = float>
struct kn_group_params {
  V zero[N];
  V scale[N];
};
