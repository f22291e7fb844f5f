// out[M, rows]: row i is column ids[i] of the matrix; a thread decodes one weight
//
// Negative ids count from the end. An id out of range gives NaN.

template <typename F, typename T, typename S>
inline void gather_columns(thread const S& loader, device const int* ids, device T* out,
                           thread const LaunchParams& p, uint threadgroup_index,
                           uint thread_index) {
  size_t at = size_t(threadgroup_index) * 256 + thread_index;
  size_t i = at / p.rows;
  if (i >= p.M) return;

  uint column = uint(ids[i] < 0 ? ids[i] + int(p.columns) : ids[i]);
  float w[1];
  w[0] = as_type<float>(0x7fc00000u);
  if (column < p.columns) decode<F, 1>(loader, uint(at % p.rows), column, w);
  out[at] = T(w[0]);
}
