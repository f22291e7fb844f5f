// The inputs of x that a kernel multiplies. permuted<F> is the format F of a matrix whose inputs
// were sorted by group: the loader's g_idx then has the input of x for each row or column.

template <typename F>
struct permuted {
  enum { bits = F::bits, scale_block = F::scale_block, has_g_idx = F::has_g_idx };
};

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
      mlx_dequant::load<STEP, ALIGNED>(x + (row + at + i + k), v + k);
    }
  }
};

template <typename F>
struct x_rows<permuted<F>> {
  template <typename S>
  static inline uint place(thread const S& loader, uint i) {
    return uint(loader.g_idx[i]);
  }
  template <uint N, bool ALIGNED, typename X, typename S>
  static inline void load(thread const S& loader, device const X* x, uint row, uint at, uint i,
                          thread float* v) {
    uint places[N];
    load_words<N>((device const uint*)loader.g_idx + at + i, places);
#pragma unroll
    for (uint k = 0; k < N; ++k) v[k] = float(x[row + places[k]]);
  }
};
