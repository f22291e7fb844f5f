// Layout NK: N rows x R columns as q[R / 2][N] pairs of codes, and the rows' scales. The R columns
// of a row share a scale.

template <typename F, uint N, uint R, typename S>
__device__ inline void half2_codes(const S& loader, uint row, uint column, scaling* by, uint* q) {
  const uint block = R < F::scale_block ? R : F::scale_block;
#pragma unroll
  for (uint i = 0; i < N; ++i) {
    float16_t values[R];
#pragma unroll
    for (uint k = 0; k < R; k += block) {
      by[i] = scaled_by(codes<F, block>(loader, row + i, column + k, values + k));
    }
    half2_neighbours(values, N, q + i);
  }
}

template <typename F, uint N, typename S>
__device__ inline void decode_outputs(const S& loader, uint row, uint column, float* w) {
  for (uint i = 0; i < N; ++i) decode<F, 1>(loader, row + i, column, w + i);
}
