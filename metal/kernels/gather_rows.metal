// out[vectors, columns] = row ids[i] of the matrix, each thread a run of 8
//
// Negative ids count from the end; one out of range gives NaN.

template <typename F, typename T, typename S>
inline void gather_rows(thread const S& loader, device const int* ids, device T* out,
                        device const uint* sizes, uint threadgroup_index, uint thread_index) {
  const uint N = 8;
  uint columns = sizes[1];
  uint runs = (columns + N - 1) / N;
  size_t at = size_t(threadgroup_index) * 256 + thread_index;
  size_t i = at / runs;
  uint column = uint(at % runs) * N;
  if (i >= sizes[vectors_at]) return;

  uint row = uint(ids[i] < 0 ? ids[i] + int(sizes[0]) : ids[i]);
  bool inside = row < sizes[0];
  out += i * columns + column;
  float w[N];
  if (inside && column + N <= columns) {
    decode<F, N>(loader, row, column, w);
    for (uint k = 0; k < N; ++k) out[k] = T(w[k]);
  } else {
    for (uint k = 0; k < N && column + k < columns; ++k) {
      w[0] = as_type<float>(0x7fc00000u);
      if (inside) decode<F, 1>(loader, row, column + k, w);
      out[k] = T(w[0]);
    }
  }
}
