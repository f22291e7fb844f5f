// out[region] = the weights, each thread a run of 8
//
// A threadgroup of 256 covers 8 rows x 256 columns, so that the 8 GPTQ rows packed in one word
// are read while its cache line is near. The grid is one-dimensional: rows may be many.

template <typename F, typename T, typename S>
inline void dequantize(thread const S& source, device T* out, device const uint* sizes,
                       uint threadgroup_index, uint thread_index) {
  const uint N = 8;
  region part = region_of(sizes);
  uint columns = part.end_column - part.first_column;
  uint across = (columns + 32 * N - 1) / (32 * N);
  uint row = part.first_row + threadgroup_index / across * 8 + thread_index / 32;
  uint column = (threadgroup_index % across * 32 + thread_index % 32) * N;
  if (row >= part.end_row || column >= columns) return;

  float w[N];
  out += size_t(row - part.first_row) * columns + column;
  if (column + N > columns) {
    for (uint i = 0; column + i < columns; ++i) {
      decode<F, 1>(source, row, part.first_column + column + i, w);
      out[i] = T(w[0]);
    }
    return;
  }
  decode<F, N>(source, row, part.first_column + column, w);
  if (columns % N == 0) {
    store<N>(out, w);
  } else {
    for (uint i = 0; i < N; ++i) out[i] = T(w[i]);
  }
}
