// IQ2_XS: 256 weights in 74 bytes, 2.3125 bits per weight
//
//   byte 0     2                     66            74
//        | d   | codes[32]           | scales[8]   |
//        | f16 | 16 bits             | 2 x 4 bits  |
//
// Each 8 weights have a code: bits 0-8 index the grid, bits 9-15 are signs.
// Each 16 weights have a scale s: nibble (i/16)%2 of scales[i/32].
//
//   w = d*(s + 0.5)/4 * grid * sign

#include "signs.metal"

struct iq2_xs {
  enum {
    weights = 256,
    bytes = 74,
    scale_block = 8,
    exact_block = 256,
    exact_bits = 11,
    lut_words = 1024
  };

  template <uint N, typename V>
  static inline float codes(device const uint8_t* block, uint first, device const uint* table,
                            thread V* q) {
    uint at = N == 8 ? 0 : first % 8;
    device const uint8_t* code = block + 2 + first / 32 * 8 + first % 32 / 8 * 2;
    uint index = code[0] | (code[1] & 1) << 8;
    uint s = block[66 + first / 32] >> (first / 16 % 2 * 4) & 15;
    float scale = (0.5f + float(s)) * 0.25f;
    uint signs = even_signs(code[1] >> 1) >> at;
    uint low = lut(table, 2 * index);
    uint high = lut(table, 2 * index + 1);
    scale *= signed_lut<N>(low, high, at, signs, q);
    return nested_scale<N>(load_f16(block), scale, q);
  }
};

template <>
struct scale_traits<iq2_xs, gguf_loader> {
  typedef float16_t type;
};
