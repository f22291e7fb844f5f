// Where the edge of a matrix cuts short what a thread decodes

// N weights of a row, with zeros past the edge of the matrix.
template <typename F, uint N, typename S>
inline void decode_edge(thread const S& loader, uint rows, uint columns, uint row, uint column,
                        thread float* w) {
#pragma unroll
  for (uint i = 0; i < N; ++i) w[i] = 0.0f;
  if (row >= rows) return;
#pragma unroll 1
  for (uint k = 0; k < N && column + k < columns; ++k) {
    float value[1];
    decode<F, 1>(loader, row, column + k, value);
    // An index that is not constant would put all of w in memory.
#pragma unroll
    for (uint i = 0; i < N; ++i) w[i] = i == k ? value[0] : w[i];
  }
}
