#include "layout.h"
#include "nk.h"

template <typename F, typename S, uint R>
struct half2_layout<F, compressed_tensors_loader<S>, R> : word_pair_stride<F::bits, R> {};

// As in nk.h, but reads whole words where R codes fill them.
template <typename F, uint N, uint R, typename S>
__device__ inline void half2_codes(const compressed_tensors_loader<S>& loader, uint row,
                                   uint column, scaling* by, uint* q) {
  const uint words = (R * F::bits + 31) / 32;
  const bool neighbours = word_pair_stride<F::bits, R>::pair_stride == 1;
  uint group = group_of(column, loader.groups);
#pragma unroll
  for (uint i = 0; i < N; ++i) {
    float16_t values[neighbours ? R : 1];
    if (neighbours) {
      by[i] = scaled_by(codes<F, R>(loader, row + i, column, values));
      half2_neighbours(values, N, q + i);
      continue;
    }
    float16_t zero;
    uint bits = zero_bits<F, 1>(loader, group, row + i, row + i);
    set_zero_point(zero_point<F>(bits, 0, loader.has_zeros), zero);
    uint word[words];
    load_words<words>(address(loader.codes, (row + i) * loader.pitch + column * F::bits / 32),
                      word);
#pragma unroll
    for (uint k = 0; k < words; ++k) {
      half2_fields(F(), word[k], zero, N, q + k * (16 / F::bits) * N + i);
    }
    by[i] = scaled_by(float(*address(loader.scales, (row + i) * loader.groups_per_row + group)));
  }
}
