#include "layout.h"

template <typename F, typename S, uint R>
struct half2_layout<F, gptq_loader<S>, R> : word_pair_stride<F::bits, R> {};

template <typename F, uint N, uint R, typename S>
__device__ inline void half2_group_codes(const gptq_loader<S>& loader,
                                         const kn_group_params<N, float16_t>& shared, uint row,
                                         uint column, uint* q) {
  const uint rows = 32 / F::bits;  // inputs in a word
  if (word_pair_stride<F::bits, R>::pair_stride == 1) {
    float16_t values[R * N];
    codes<F, N, R>(loader, shared, row, column, values);
    half2_rows(values, N, q);
    return;
  }
  const uint* words = address(loader.qweight, row / rows * loader.columns + column);
#pragma unroll
  for (uint r = 0; r < R; r += rows) {
    uint word[N];
    load_words<N>(words, word);
#pragma unroll
    for (uint i = 0; i < N; ++i) {
      half2_fields(F(), word[i], shared.zero[i], N, q + r / 2 * N + i);
    }
    words += loader.columns;
  }
}

#include "kn.h"
