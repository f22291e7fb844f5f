// Formats stored by inputs: a row is an input, and rows of a group share scales and zero points.
// Who goes through many rows loads those once a group. Included after share_group, group_at,
// load_constants and codes.
//
// Columns have scales of their own, so a run of a row comes scaled: see by_outputs.metal. A
// format's `run` is only how many columns a lane takes.

#include "scales.metal"

// Whether each row's group has to be looked up.
template <typename F, typename S>
inline bool has_g_idx(thread const S&) {
  return F::has_g_idx;
}

// w[0..N) = codes times their scales.
template <uint N, typename V>
inline void scaled(thread const group_constants<N, V>& shared, thread const V* q, thread V* w) {
  multiply<N>(q, shared.scale, w);
}

// w[0..N) = the weights of `row` from `column` on, a multiple of N.
template <typename F, uint N, typename V, typename S>
inline void decode(thread const S& source, uint row, uint column, thread V* w) {
  typename S::template constants<N, V> shared;
  load_constants<F, N>(source, group_at<F>(source, row), column, shared);
  V q[N];
  codes<F, N, 1>(source, shared, row, column, q);
  scaled<N>(shared, q, w);
}

template <typename F, uint N, typename S>
inline float codes(thread const S& source, uint row, uint column, thread float* q) {
  decode<F, N>(source, row, column, q);
  return 1.0f;
}

// For product_mma, of N columns: codes of R rows of a group less zero points, q[R / 2][N], in pairs
// as the source has them, and scales.
template <typename F, uint N, uint R, typename S>
inline void paired_codes(thread const S& source, uint column, uint row, thread scaling* by,
                         thread uint* q) {
  typename S::template constants<N, float16_t> shared;
  load_constants<F, N>(source, group_at<F>(source, row), column, shared);
  paired<F, N, R>(source, shared, row, column, q);
  for (uint i = 0; i < N; ++i) by[i] = scaled_by(float(shared.scale[i]));
}

template <typename F, uint N, typename S>
inline void decode_outputs(thread const S& source, uint column, uint row, thread float* w) {
  decode<F, N>(source, row, column, w);
}
