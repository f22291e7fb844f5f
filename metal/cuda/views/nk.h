// Layout NK: pairs of neighbouring codes of a row, of which R columns share a scale. SCALE is what
// row_codes gives.

template <typename SCALE>
struct nk_pairs : of_neighbours {
  typedef SCALE scale;

  template <typename F, uint N, uint R, typename S>
  static inline void codes(const S& loader, uint row, uint column, scale* by, uint* q) {
    const uint block = R < F::scale_block ? R : F::scale_block;
#pragma unroll
    for (uint i = 0; i < N; ++i) {
      float16_t values[R];
#pragma unroll
      for (uint k = 0; k < R; k += block) {
        by[i] = row_codes<F, block>(loader, row + i, column + k, values + k);
      }
      half2_neighbours(values, N, q + i);
    }
  }
};
