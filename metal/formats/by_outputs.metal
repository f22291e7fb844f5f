// Formats stored by outputs: a row is an output, and runs of a row share scales. The same names as
// in by_inputs.metal, so that kernels need not know. Included after codes.

#include "scales.metal"

// w[0..N) = the weights of `row` from `column` on, a multiple of N.
template <typename F, uint N, typename V, typename S>
inline void decode(thread const S& source, uint row, uint column, thread V* w) {
  const uint run = N < F::run ? N : F::run;
#pragma unroll
  for (uint i = 0; i < N; i += run) {
    scaling by = scaled_by(codes<F, run>(source, row, column + i, w + i));
    scale_codes<F, run>(by, w + i);
  }
}

struct nothing {};

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
inline void load_constants(thread const S&, uint, uint, thread nothing&) {}

template <typename F, uint N, uint R, typename S>
inline void codes(thread const S& source, thread const nothing&, uint row, uint column,
                  thread float* q) {
#pragma unroll
  for (uint r = 0; r < R; ++r) decode<F, N>(source, row + r, column, q + r * N);
}

// They came scaled.
template <uint N>
inline void scaled(thread const nothing&, thread const float* q, thread float* w) {
  for (uint i = 0; i < N; ++i) w[i] = q[i];
}

// For product_mma, of N rows: codes of R columns that share a scale, q[R / 2][N] pairs, and scales.
template <typename F, uint N, uint R, typename S>
inline void paired_codes(thread const S& source, uint row, uint column, thread scaling* by,
                         thread uint* q) {
  const uint run = R < F::run ? R : F::run;
#pragma unroll
  for (uint i = 0; i < N; ++i) {
    float16_t less[R];
#pragma unroll
    for (uint k = 0; k < R; k += run) {
      by[i] = scaled_by(codes<F, run>(source, row + i, column + k, less + k));
    }
    pair_neighbours(less, N, q + i);
  }
}

template <typename F, uint N, typename S>
inline void decode_outputs(thread const S& source, uint row, uint column, thread float* w) {
  for (uint i = 0; i < N; ++i) decode<F, 1>(source, row + i, column, w + i);
}
