#include "kn.h"

template <uint BITS>
struct word_pairs : of_neighbours {
  typedef float scale;

  template <typename F, uint N, uint R, typename S>
  static inline void codes(const S& loader, uint column, uint row, float* by, uint* q) {
    const kn_group_params<N, float16_t> shared = load_scales<F, N>(loader, column, row, by);
    const uint pitch = loader.columns / 8;
    const uint* words = address(loader.qweight, row * pitch + column / 8);
#pragma unroll
    for (uint r = 0; r < R; r += 2) {
      half2_words(F(), words[0], words[pitch], shared.zero, q + r / 2 * N);
      words += 2 * pitch;
    }
  }
};
