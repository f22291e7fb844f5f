#include "nk.h"

typedef nk_pairs<float> neighbour_pairs;

template <uint BITS>
struct word_pairs : of_inputs_apart<16 / BITS> {
  typedef float scale;

  template <typename F, uint N, uint R, typename S>
  static inline void codes(const S& loader, uint row, uint column, float* by, uint* q) {
    const uint words = R * BITS / 32;
    uint group = group_of(column, loader.groups);
#pragma unroll
    for (uint i = 0; i < N; ++i) {
      float16_t zero;
      uint bits = zero_bits<F, 1>(loader, group, row + i, row + i);
      set_zero_point(zero_point<F>(bits, 0, loader.has_zeros), zero);
      uint word[words];
      load_words<words>(address(loader.codes, (row + i) * loader.pitch + column * BITS / 32), word);
#pragma unroll
      for (uint k = 0; k < words; ++k) {
        half2_fields(F(), word[k], zero, N, q + k * (16 / BITS) * N + i);
      }
      by[i] = float(*address(loader.scales, (row + i) * loader.groups_per_row + group));
    }
  }
};
