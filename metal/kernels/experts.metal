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

// The expert of a threadgroup, or p.experts where the id is out of range. Negative ids count from
// the end.
inline uint expert_of(device const int* ids, uint threadgroup_index, thread const LaunchParams& p) {
  int id = ids[pair_of(threadgroup_index, p)];
  return min(uint(id < 0 ? id + int(p.experts) : id), p.experts);
}

// The same as a factor of the strides, 0 where the id is out of range.
inline size_t stack_index(device const int* ids, uint threadgroup_index,
                          thread const LaunchParams& p) {
  uint expert = expert_of(ids, threadgroup_index, p);
  return expert < p.experts ? expert : 0;
}

// out[first ... end - 1] = NaN, by all threads of a threadgroup
template <typename T>
inline void store_nan(device T* out, uint first, uint end, uint thread_index) {
  for (uint i = first + thread_index; i < end; i += 256) out[i] = T(as_type<float>(0x7fc00000u));
}
