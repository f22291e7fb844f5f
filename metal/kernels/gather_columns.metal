// out[vectors, rows] = column ids[i] of the matrix, each thread one weight
//
// Negative ids count from the end; one out of range gives NaN.

template <typename F, typename T, typename S>
inline void gather_columns(thread const S& loader, device const int* ids, device T* out,
                           device const uint* sizes, uint threadgroup_index, uint thread_index) {
  uint rows = sizes[0];
  size_t at = size_t(threadgroup_index) * 256 + thread_index;
  size_t i = at / rows;
  if (i >= sizes[vectors_at]) return;

  uint column = uint(ids[i] < 0 ? ids[i] + int(sizes[1]) : ids[i]);
  float w[1];
  w[0] = as_type<float>(0x7fc00000u);
  if (column < sizes[1]) decode<F, 1>(loader, uint(at % rows), column, w);
  out[at] = T(w[0]);
}
