// Q4_K: 256 weights in 144 bytes, 4.5 bits per weight
//
//   byte 0     2      4                16                144
//        | d   | dmin | scales[12]     | codes[128]       |
//        | f16 | f16  | 8 x (s6, m6)   | 2 x 4 bits       |
//
// Each 32 weights have a scale s and a min m (k_scales.metal). Each 32 bytes of codes hold 32
// weights in their low nibbles and the next 32 in their high nibbles.
//
//   w = d*s*q - dmin*m

#include "k_scales.metal"

struct q4_k {
  enum {
    weights = 256,
    bytes = 144,
    scale_block = 32,
    exact_block = 32,
    exact_bits = 8,
    int8_codes = 1
  };

  template <uint N, typename V>
  static inline scaling codes(device const uint8_t* block, uint first, device const uint*,
                              thread V* q) {
    device const uint8_t* bytes = block + 16 + first / 64 * 32 + first % 32;
    scaling by = k_scales(block, first / 32);
    by.scale *= load_codes<N, 16>(bytes, first / 32 % 2 * 4, 15, q);
    return by;
  }
};

template <>
struct has_min<q4_k> {
  enum { value = 1 };
};
