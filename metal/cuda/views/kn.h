// Layout KN: R rows x N columns of a group as q[R / 2][N] pairs of codes less zero points, and the
// columns' scales. A view includes this after its half2_group_codes.

template <typename F, uint N, uint R, typename S>
__device__ inline void half2_codes(const S& loader, uint column, uint row, scaling* by, uint* q) {
  kn_group_params<N, float16_t> shared;
  load_group_params<F, N>(loader, group_at<F>(loader, row), column, shared);
  half2_group_codes<F, N, R>(loader, shared, row, column, q);
  for (uint i = 0; i < N; ++i) by[i] = scaled_by(float(shared.scale[i]));
}

template <typename F, uint N, typename S>
__device__ inline void decode_outputs(const S& loader, uint column, uint row, float* w) {
  decode<F, N>(loader, row, column, w);
}
