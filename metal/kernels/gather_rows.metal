// out[M, columns]: row i is row ids[i] of the matrix; a thread decodes 8 columns
//
// Negative ids count from the end. An id out of range gives NaN.

template <typename F, typename T, typename S>
inline void gather_rows(thread const S& loader, device const int* ids, device T* out,
                        thread const LaunchParams& p, uint threadgroup_index, uint thread_index) {
  const uint VALUES = 8;
  uint columns = p.columns;
  uint chunks = (columns + VALUES - 1) / VALUES;
  size_t at = size_t(threadgroup_index) * 256 + thread_index;
  size_t i = at / chunks;
  uint column = uint(at % chunks) * VALUES;
  if (i >= p.M) return;

  uint row = uint(ids[i] < 0 ? ids[i] + int(p.rows) : ids[i]);
  bool inside = row < p.rows;
  out += i * columns + column;
  float w[VALUES];
  if (inside && column + VALUES <= columns) {
    decode<F, VALUES>(loader, row, column, w);
    for (uint k = 0; k < VALUES; ++k) out[k] = T(w[k]);
  } else {
    for (uint k = 0; k < VALUES && column + k < columns; ++k) {
      w[0] = as_type<float>(0x7fc00000u);
      if (inside) decode<F, 1>(loader, row, column + k, w);
      out[k] = T(w[0]);
    }
  }
}
