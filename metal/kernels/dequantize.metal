// out = the weights of a region of the matrix; a thread decodes 8 columns
//
// A threadgroup of 256 covers 2048 columns, so that writes are long. It covers as many rows as the
// loader decodes at once. The grid has one dimension, because the others are too short for the rows
// of some matrices.

template <uint N, typename T>
inline void store_values(device T* out, thread const float* w, bool aligned) {
  if (aligned) {
    store<N>(out, w);
  } else {
    for (uint i = 0; i < N; ++i) out[i] = T(w[i]);
  }
}

template <typename F, typename T, typename S>
inline void dequantize(thread const S& loader, device T* out, thread const LaunchParams& p,
                       uint threadgroup_index, uint thread_index) {
  const uint N = 8;
  const uint R = S::rows_per_thread;
  uint columns = p.end_column - p.first_column;
  uint across = (columns + 256 * N - 1) / (256 * N);
  uint tile = fast_div(threadgroup_index, p.tiles_multiplier, p.tiles_shift);
  uint row = p.first_row + tile * R;
  uint column = ((threadgroup_index - tile * across) * 256 + thread_index) * N;
  if (column >= columns) return;

  out += size_t(row - p.first_row) * columns + column;
  bool aligned = columns % N == 0;
  uint from = p.first_column + column;
  if (row % R == 0 && row + R <= p.end_row && column + N <= columns && share_group<F, R>(loader)) {
    typename S::template group_params<N> shared;
    load_group_params<F, N>(loader, group_at<F>(loader, row), from, shared);
    float w[R * N];
    group_codes<F, N, R>(loader, shared, row, from, w);
#pragma unroll
    for (uint r = 0; r < R; ++r) {
      apply_scale<N>(shared, w + r * N, w + r * N);
      store_values<N>(out + size_t(r) * columns, w + r * N, aligned);
    }
    return;
  }
  uint rows = min(R, p.end_row - row);
  for (uint r = 0; r < rows; ++r, ++row, out += columns) {
    if (column + N <= columns) {
      float w[N];
      decode<F, N>(loader, row, from, w);
      store_values<N>(out, w, aligned);
    } else {
      for (uint i = 0; column + i < columns; ++i) {
        float w[1];
        decode<F, 1>(loader, row, from + i, w);
        out[i] = T(w[0]);
      }
    }
  }
}
