// Layout KN: the columns of a group as pairs of codes. A view includes this before its structs.

// What N columns of the group of `row` share, and their scales.
template <typename F, uint N, typename S>
inline kn_group_params<N, float16_t> load_scales(const S& loader, uint column, uint row,
                                                 float* by) {
  kn_group_params<N, float16_t> shared;
  load_group_params<F, N>(loader, group_at<F>(loader, row), column, shared);
  for (uint i = 0; i < N; ++i) by[i] = float(shared.scale[i]);
  return shared;
}
