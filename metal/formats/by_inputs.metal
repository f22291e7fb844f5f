// Formats stored by inputs: a row is an input, and rows of a group share scales and zero points.
// Who goes through many rows loads those once a group: in_order says whether `count` rows from a
// multiple of it on are of one group, group_end then where a row's group ends. Included after
// those, group_at, load_constants and the decode that takes them.

// w[0..N) = the weights of `row` from `column` on, a multiple of N.
template <typename F, uint N, typename S>
inline void decode(thread const S& source, uint row, uint column, thread float* w) {
  typename S::template constants<N> shared;
  load_constants<F, N>(source, group_at(source, row), column, shared);
  decode<F, N>(source, shared, row, column, w);
}
