// out[region] = the weights, each thread a run of 8
//
// A threadgroup of 256 covers one row of 2048 columns, long writes that memory likes; or 4 rows of
// 512 where a format packs rows in a word, so that its cache line is near. The grid is
// one-dimensional: rows may be many.

template <typename F, typename T, typename S>
inline void dequantize(thread const S& source, device T* out, device const uint* sizes,
                       uint threadgroup_index, uint thread_index) {
  const uint N = 8;
  const uint threads = 256 / S::tile_rows;
  region part = region_of(sizes);
  uint columns = part.end_column - part.first_column;
  uint across = (columns + threads * N - 1) / (threads * N);
  uint row = threadgroup_index / across * S::tile_rows + thread_index / threads;
  uint column = (threadgroup_index % across * threads + thread_index % threads) * N;
  row += part.first_row;
  if (row >= part.end_row || column >= columns) return;

  out += size_t(row - part.first_row) * columns + column;
  if (column + N <= columns) {
    float w[N];
    decode<F, N>(source, row, part.first_column + column, w);
    if (columns % N == 0) {
      store<N>(out, w);
    } else {
      for (uint i = 0; i < N; ++i) out[i] = T(w[i]);
    }
  } else {
    for (uint i = 0; column + i < columns; ++i) {
      float w[1];
      decode<F, 1>(source, row, part.first_column + column + i, w);
      out[i] = T(w[0]);
    }
  }
}
