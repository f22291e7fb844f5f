// Layout NK: a stored row is an output, and neighbours in a row share scales. This file defines the
// same names as layout_kn.metal, so kernels serve both layouts. A loader includes it after its
// codes.

#include "scales.metal"

// w[0..N) = the weights of `row` from `column` on, a multiple of N.
template <typename F, uint N, typename V, typename S>
inline void decode(thread const S& loader, uint row, uint column, thread V* w) {
  const uint block = N < F::scale_block ? N : F::scale_block;
#pragma unroll
  for (uint i = 0; i < N; i += block) {
    auto by = row_codes<F, block>(loader, row, column + i, w + i);
    scale_codes<F, block>(by, w + i);
  }
}

struct no_group_params {};

template <typename F, uint R, typename S>
inline bool share_group(thread const S&) {
  return true;
}

template <typename F, typename S>
inline uint group_at(thread const S&, uint) {
  return 0;
}

template <typename F, uint N, typename S>
inline void load_group_params(thread const S&, uint, uint, thread no_group_params&) {}

template <typename F, uint N, uint R, typename S>
inline void group_codes(thread const S& loader, thread const no_group_params&, uint row,
                        uint column, thread float* q) {
#pragma unroll
  for (uint r = 0; r < R; ++r) decode<F, N>(loader, row + r, column, q + r * N);
}

// Decoded weights are scaled already.
template <uint N>
inline void apply_scale(thread const no_group_params&, thread const float* q, thread float* w) {
  for (uint i = 0; i < N; ++i) w[i] = q[i];
}
