// In which order a kernel reads the inputs of x and stores its results
//
// A matrix whose inputs were sorted by group has their places in x in the place of g_idx. A linear
// layer's product then reads x in this order: its format is permuted_inputs<F>. The transposed
// product stores its results in it: permuted_outputs<F>.

template <typename F>
struct permuted_inputs {
  enum { bits = F::bits, scale_block = F::scale_block, has_g_idx = F::has_g_idx };
};

template <typename F>
struct permuted_outputs {
  enum { bits = F::bits, scale_block = F::scale_block, has_g_idx = F::has_g_idx };
};

// Where row m of BM rows from `first` on begins in x, which may have fewer.
template <uint BM>
inline uint row_place(uint first, uint m, uint M, uint length) {
  return (BM == 1 ? first : min(first + m, M - 1)) * length;
}

template <typename F>
struct x_rows {
  template <typename S>
  static inline uint place(thread const S&, uint i) {
    return i;
  }
  // v[0..N) = N inputs from at + i on, of the row that begins at x[row]; i is a constant.
  template <uint N, bool ALIGNED, typename X, typename S>
  static inline void load(thread const S&, device const X* x, uint row, uint at, uint i,
                          thread float* v) {
    const uint STEP = N < loaded_at_once ? N : uint(loaded_at_once);
#pragma unroll
    for (uint k = 0; k < N; k += STEP) {
      mlx_dequant::load<STEP, ALIGNED>(x + (row + at + k) + i, v + k);
    }
  }
};

template <typename F>
struct x_rows<permuted_inputs<F>> {
  template <typename S>
  static inline uint place(thread const S& loader, uint i) {
    return *address(loader.g_idx, i);
  }
  template <uint N, bool ALIGNED, typename X, typename S>
  static inline void load(thread const S& loader, device const X* x, uint row, uint at, uint i,
                          thread float* v) {
    const uint STEP = N < 4 ? N : 4;
#pragma unroll
    for (uint k = 0; k < N; k += STEP) {
      uint places[STEP];
      load_words<STEP>(address(loader.g_idx, at + i + k), places);
#pragma unroll
      for (uint j = 0; j < STEP; ++j) v[k + j] = float(x[row + places[j]]);
    }
  }
};

// Where the result of output i belongs.
template <typename F>
struct results {
  template <typename S>
  static inline uint place(thread const S&, uint i) {
    return i;
  }
};

template <typename F>
struct results<permuted_outputs<F>> {
  template <typename S>
  static inline uint place(thread const S& loader, uint i) {
    return *address(loader.g_idx, i);
  }
};
