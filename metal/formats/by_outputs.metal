// Formats stored by outputs: a row is an output, and rows share nothing. The same names as in
// by_inputs.metal, so that kernels need not know. Included after decode.

struct nothing {};

template <typename S>
inline uint group_at(thread const S&, uint) {
  return 0;
}

template <typename S>
inline bool in_order(thread const S&, uint) {
  return true;
}

template <typename S>
inline uint group_end(thread const S&, uint) {
  return ~0u;
}

template <typename F, uint N, typename S>
inline void load_constants(thread const S&, uint, uint, thread nothing&) {}

template <typename F, uint N, typename S>
inline void decode(thread const S& source, thread const nothing&, uint row, uint column,
                   thread float* w) {
  decode<F, N>(source, row, column, w);
}
