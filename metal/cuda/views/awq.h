#include "layout.h"

template <typename F, uint N, uint R, typename S>
__device__ inline void half2_group_codes(const awq_loader<S>& loader,
                                         const kn_group_params<N, float16_t>& shared, uint row,
                                         uint column, uint* q) {
  const uint pitch = loader.columns / 8;
  const uint* words = address(loader.qweight, row * pitch + column / 8);
#pragma unroll
  for (uint r = 0; r < R; r += 2) {
    half2_words(F(), words[0], words[pitch], shared.zero, q + r / 2 * N);
    words += 2 * pitch;
  }
}

#include "kn.h"
