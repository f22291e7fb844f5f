// Formats stored by outputs: a row is an output, and rows share nothing. The same names as in
// by_inputs.metal, so that kernels need not know. Included after decode.

struct nothing {};

template <typename F, uint R, typename S>
inline bool share_group(thread const S&) {
  return true;
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

template <uint N>
inline void scaled(thread const nothing&, thread const float* q, thread float* w) {
  for (uint i = 0; i < N; ++i) w[i] = q[i];
}
