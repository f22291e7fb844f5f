// Formats stored by outputs: a row is an output, and runs of a row share scales. The same names as
// in layout_kn.metal, so that kernels need not know. Included after codes.

#include "scales.metal"

// w[0..N) = the weights of `row` from `column` on, a multiple of N.
template <typename F, uint N, typename V, typename S>
inline void decode(thread const S& loader, uint row, uint column, thread V* w) {
  const uint run = N < F::scale_block ? N : F::scale_block;
#pragma unroll
  for (uint i = 0; i < N; i += run) {
    scaling by = scaled_by(codes<F, run>(loader, row, column + i, w + i));
    scale_codes<F, run>(by, w + i);
  }
}

struct no_group_params {};

template <typename F, uint R, typename S>
inline bool share_group(thread const S&) {
  return true;
}

template <typename F, typename S>
inline bool has_g_idx(thread const S&) {
  return false;
}

template <typename F, typename S>
inline uint group_at(thread const S&, uint) {
  return 0;
}

template <typename F, uint N, typename S>
inline void load_group_params(thread const S&, uint, uint, thread no_group_params&) {}

template <typename F, uint N, uint R, typename S>
inline void codes(thread const S& loader, thread const no_group_params&, uint row, uint column,
                  thread float* q) {
#pragma unroll
  for (uint r = 0; r < R; ++r) decode<F, N>(loader, row + r, column, q + r * N);
}

// They came scaled.
template <uint N>
inline void apply_scale(thread const no_group_params&, thread const float* q, thread float* w) {
  for (uint i = 0; i < N; ++i) w[i] = q[i];
}

// For qmv_mma, of N rows: codes of R columns that share a scale, q[R / 2][N] pairs, and scales.
template <typename F, uint N, uint R, typename S>
inline void half2_codes(thread const S& loader, uint row, uint column, thread scaling* by,
                        thread uint* q) {
  const uint run = R < F::scale_block ? R : F::scale_block;
#pragma unroll
  for (uint i = 0; i < N; ++i) {
    float16_t less[R];
#pragma unroll
    for (uint k = 0; k < R; k += run) {
      by[i] = scaled_by(codes<F, run>(loader, row + i, column + k, less + k));
    }
    half2_neighbours(less, N, q + i);
  }
}

template <typename F, uint N, typename S>
inline void decode_outputs(thread const S& loader, uint row, uint column, thread float* w) {
  for (uint i = 0; i < N; ++i) decode<F, 1>(loader, row + i, column, w + i);
}
