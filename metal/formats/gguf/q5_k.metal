// Q5_K: 256 weights in 176 bytes, 5.5 bits per weight
//
//   byte 0     2      4              16           48              176
//        | d   | dmin | scales[12]   | high[32]   | codes[128]    |
//        | f16 | f16  | 8 x (s6, m6) | 8 x 1 bit  | 2 x 4 bits    |
//
// Each 32 weights have a scale s and a min m (k_scales.metal). Each 32 bytes of codes hold 32
// weights in their low nibbles and the next 32 in their high nibbles. Bit k of high[i] is the
// fifth bit of weight 32*k + i.
//
//   w = d*s*q - dmin*m

#include "k_scales.metal"

struct q5_k {
  enum {
    weights = 256,
    bytes = 176,
    scale_block = 32,
    exact_block = 32,
    exact_bits = 8,
    int8_codes = 1
  };

  template <uint N, typename V>
  static inline scaling codes(device const uint8_t* block, uint first, device const uint*,
                              thread V* q) {
    scaling by = k_scales(block, first / 32);
    fields<N> low =
        load_fields<N, 16>(block + 48 + first / 64 * 32 + first % 32, first / 32 % 2 * 4, 15);
    fields<N> high = load_fields<N, 16>(block + 16 + first % 32, first / 32, 1);
    by.scale *= to_numbers<N>(join<N>(low, high, 4), q);
    return by;
  }
};

template <>
struct has_min<q5_k> {
  enum { value = 1 };
};
