// What the kernels over stacks of matrices share: which expert a threadgroup multiplies with
//
// A pair is a row of x and an expert, and pair i has expert ids[i]. Threadgroups of one part of the
// result lie next to each other for all pairs, so that pairs with one expert find its weights in
// the cache.

inline uint pair_of(uint threadgroup_index, thread const LaunchParams& p) {
  return threadgroup_index % p.M;
}

inline uint part_of(uint threadgroup_index, thread const LaunchParams& p) {
  return threadgroup_index / p.M;
}

// The number of an expert, or `experts` and more where the id is out of range. Negative ids count
// from the end.
inline uint expert_number(int id, uint experts) { return uint(id < 0 ? id + int(experts) : id); }
inline uint expert_number(uint id, uint) { return id; }

// The expert of a threadgroup, or p.experts where the id is out of range. I is int or uint.
template <typename I>
inline uint expert_of(device const I* ids, uint threadgroup_index, thread const LaunchParams& p) {
  return min(expert_number(ids[pair_of(threadgroup_index, p)], p.experts), p.experts);
}

// The same as a factor of the strides, 0 where the id is out of range.
template <typename I>
inline size_t stack_index(device const I* ids, uint threadgroup_index,
                          thread const LaunchParams& p) {
  uint expert = expert_of(ids, threadgroup_index, p);
  return expert < p.experts ? expert : 0;
}

// out[first ... end - 1] = NaN, by all threads of a threadgroup
template <typename T>
inline void store_nan(device T* out, uint first, uint end, uint thread_index) {
  for (uint i = first + thread_index; i < end; i += 256) out[i] = T(as_type<float>(0x7fc00000u));
}
