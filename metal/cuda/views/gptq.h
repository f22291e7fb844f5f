#include "kn.h"

template <uint BITS>
struct word_pairs : of_inputs_apart<16 / BITS> {
  typedef float scale;

  template <typename F, uint N, uint R, typename S>
  static inline void codes(const S& loader, uint column, uint row, float* by, uint* q) {
    const kn_group_params<N, float16_t> shared = load_scales<F, N>(loader, column, row, by);
    const uint rows = 32 / BITS;  // inputs in a word
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
};

struct neighbour_pairs : of_neighbours {
  typedef float scale;

  template <typename F, uint N, uint R, typename S>
  static inline void codes(const S& loader, uint column, uint row, float* by, uint* q) {
    const kn_group_params<N, float16_t> shared = load_scales<F, N>(loader, column, row, by);
    float16_t values[R * N];
    group_codes<F, N, R>(loader, shared, row, column, values);
    half2_rows(values, N, q);
  }
};
