// IQ1_M: 256 weights in 56 bytes, 1.75 bits per weight
//
//   byte 0           32          48            56
//        | index[32] | high[16]  | scales[4]    |
//        | low bits  | 2 x 4 bits| 16 bits      |
//
// Each 8 weights have a nibble of high: three index bits, then the sign of delta.
// Each 16 weights have a scale s: three bits, four in the low 12 bits of each word of scales.
// The words' high nibbles together are d, lowest first.
//
//   w = d*(2*s + 1) * (grid + delta)      delta = 1/8 or -1/8

#include "iq1_values.metal"

struct iq1_m {
  enum {
    weights = 256,
    bytes = 56,
    scale_block = 8,
    exact_block = 256,
    exact_bits = 8,
    lut_words = 1024
  };

  template <uint N, typename V>
  static inline float codes(device const uint8_t* block, uint first, device const uint* table,
                            thread V* q) {
    device const uint8_t* scales = block + 48;
    uint d = uint(scales[1] >> 4) | uint(scales[3] >> 4) << 4 | uint(scales[5] >> 4) << 8 |
             uint(scales[7] >> 4) << 12;
    uint j = first / 16;
    uint s = (scales[j / 4 * 2] | uint(scales[j / 4 * 2 + 1]) << 8) >> (j % 4 * 3) & 7;

    uint k = first / 8;
    uint high = (block + 32 + k / 4 * 2)[k % 4 / 2] >> (k % 2 * 4) & 15;
    uint index = (block + k / 4 * 4)[k % 4] | (high & 7) << 8;
    iq1_values<N>(table, index, N == 8 ? 0 : first % 8, high & 8, q);
    return nested_scale<N>(f16_of(d), float(2 * s + 1) * 0.125f, q);
  }
};

template <>
struct scale_traits<iq1_m, gguf_loader> {
  typedef float16_t type;
};
