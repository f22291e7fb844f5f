// IQ2_S: 256 weights in 82 bytes, 2.5625 bits per weight
//
//   byte 0     2            34           66           74           82
//        | d   | index[32]  | signs[32]  | high[8]    | scales[8]  |
//        | f16 | low bits   | 8 x 1 bit  | 4 x 2 bits | 2 x 4 bits |
//
// Each 8 weights have a 10-bit index into the grid and 8 signs.
// Each 16 weights have a scale s: nibble (i/16)%2 of scales[i/32].
//
//   w = d*(s + 0.5)/4 * grid * sign

#include "signs.metal"

struct iq2_s {
  enum {
    weights = 256,
    bytes = 82,
    scale_block = 8,
    exact_block = 256,
    exact_bits = 11,
    lut_words = 2048
  };

  template <uint N, typename V>
  static inline float codes(device const uint8_t* block, uint first, device const uint* table,
                            thread V* q) {
    uint at = N == 8 ? 0 : first % 8;
    uint k = first / 8;
    device const uint8_t* codes = block + 2 + k / 4 * 4;
    uint index = codes[k % 4] | (block[66 + k / 4] >> (k % 4 * 2) & 3) << 8;
    uint s = block[74 + first / 32] >> (first / 16 % 2 * 4) & 15;
    float scale = (0.5f + float(s)) * 0.25f;
    uint signs = uint(codes[32 + k % 4]) >> at;
    uint low = lut(table, 2 * index);
    uint high = lut(table, 2 * index + 1);
    scale *= signed_lut<N>(low, high, at, signs, q);
    return nested_scale<N>(load_f16(block), scale, q);
  }
};

template <>
struct scale_traits<iq2_s, gguf_loader> {
  typedef float16_t type;
};
