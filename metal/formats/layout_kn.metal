// Formats stored by inputs: a row is an input, and rows of a group share scales and zero points.
// Who goes through many rows loads those once a group. Included after share_group, group_at,
// load_group_params and codes.
//
// Columns have scales of their own, so a run of a row comes scaled: see layout_nk.metal. A
// format's `run` is only how many columns a lane takes.

#include "scales.metal"

// Whether each row's group has to be looked up.
template <typename F, typename S>
inline bool has_g_idx(thread const S&) {
  return F::has_g_idx;
}

// w[0..N) = codes times their scales.
template <uint N, typename V>
inline void apply_scale(thread const group_params_of<N, V>& shared, thread const V* q,
                        thread V* w) {
  multiply<N>(q, shared.scale, w);
}

// w[0..N) = the weights of `row` from `column` on, a multiple of N.
template <typename F, uint N, typename V, typename S>
inline void decode(thread const S& loader, uint row, uint column, thread V* w) {
  typename S::template group_params<N, V> shared;
  load_group_params<F, N>(loader, group_at<F>(loader, row), column, shared);
  V q[N];
  codes<F, N, 1>(loader, shared, row, column, q);
  apply_scale<N>(shared, q, w);
}

template <typename F, uint N, typename S>
inline float codes(thread const S& loader, uint row, uint column, thread float* q) {
  decode<F, N>(loader, row, column, q);
  return 1.0f;
}

// For qmv_mma, of N columns: codes of R rows of a group less zero points, q[R / 2][N], in pairs
// as the loader has them, and scales.
template <typename F, uint N, uint R, typename S>
inline void half2_codes(thread const S& loader, uint column, uint row, thread scaling* by,
                        thread uint* q) {
  typename S::template group_params<N, float16_t> shared;
  load_group_params<F, N>(loader, group_at<F>(loader, row), column, shared);
  paired<F, N, R>(loader, shared, row, column, q);
  for (uint i = 0; i < N; ++i) by[i] = scaled_by(float(shared.scale[i]));
}

template <typename F, uint N, typename S>
inline void decode_outputs(thread const S& loader, uint column, uint row, thread float* w) {
  decode<F, N>(loader, row, column, w);
}
