// out[region] = the weights, each thread a run of 8 columns in 8 rows
//
// Eight rows are what a GPTQ word of 4 bits packs: a thread reads it once. Neighbouring threads
// write neighbouring runs. A threadgroup of 256 covers 8 rows x 2048 columns, or, where a row is
// shorter, as many rows as its threads reach. The grid is one-dimensional: rows may be many.

template <typename F, typename T, typename S>
inline void dequantize(thread const S& source, device T* out, device const uint* sizes,
                       uint threadgroup_index, uint thread_index) {
  const uint N = 8;
  region part = region_of(sizes);
  uint columns = part.end_column - part.first_column;
  uint across = (columns + 32 * N - 1) / (32 * N);
  uint tile = threadgroup_index * 8 + thread_index / 32;
  uint column = (tile % across * 32 + thread_index % 32) * N;
  // Tiles of rows start at multiples of 8, wherever the region does.
  uint row = (part.first_row / 8 + tile / across) * 8;
  if (row >= part.end_row || column >= columns) return;

  out += column;
  if (column + N <= columns && columns % N == 0 && row >= part.first_row &&
      row + 8 <= part.end_row) {
#pragma unroll
    for (uint r = 0; r < 8; ++r) {
      float w[N];
      decode<F, N>(source, row + r, part.first_column + column, w);
      store<N>(out + size_t(row + r - part.first_row) * columns, w);
    }
    return;
  }
  for (uint r = max(row, part.first_row); r < min(row + 8, part.end_row); ++r) {
    device T* to = out + size_t(r - part.first_row) * columns;
    for (uint i = 0; i < N && column + i < columns; ++i) {
      float w[1];
      decode<F, 1>(source, r, part.first_column + column + i, w);
      to[i] = T(w[0]);
    }
  }
}
