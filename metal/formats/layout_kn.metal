// Layout KN: a stored row is an input. Rows of a group share scales and zero points, so kernels
// that read many rows load these once a group. A loader includes this file after its share_group,
// group_at, load_group_params and group_codes.
//
// Each column has its own scale, so row_codes gives scaled weights and the scale 1.
// layout_nk.metal defines the same names. A format's scale_block is only the number of columns that
// a thread takes.

#include "scales.metal"

// w[0..N) = codes times their scales.
template <uint N, typename V>
inline void apply_scale(thread const kn_group_params<N, V>& shared, thread const V* q,
                        thread V* w) {
  multiply<N>(q, shared.scale, w);
}

// w[0..N) = the weights of `row` from `column` on, a multiple of N.
template <typename F, uint N, typename V, typename S>
inline void decode(thread const S& loader, uint row, uint column, thread V* w) {
  typename S::template group_params<N, V> shared;
  load_group_params<F, N>(loader, group_at<F>(loader, row), column, shared);
  V q[N];
  group_codes<F, N, 1>(loader, shared, row, column, q);
  apply_scale<N>(shared, q, w);
}

template <typename F, uint N, typename S>
inline float row_codes(thread const S& loader, uint row, uint column, thread float* q) {
  decode<F, N>(loader, row, column, q);
  return 1.0f;
}

#include "separate_rows.metal"
