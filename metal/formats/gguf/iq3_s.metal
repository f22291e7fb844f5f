// IQ3_S: 256 weights in 110 bytes, 3.4375 bits per weight
//
//   byte 0     2            66          74           106          110
//        | d   | index[64]  | high[8]   | signs[32]  | scales[4]  |
//        | f16 | low bits   | 8 x 1 bit | 8 x 1 bit  | 2 x 4 bits |
//
// Each 4 weights have a 9-bit index into the grid; bit j%8 of high[j/8] is the ninth of index j.
// Each 8 weights have 8 signs. Each 32 weights have a scale s: nibble (i/32)%2 of scales[i/64].
//
//   w = d*(2*s + 1) * grid * sign

#include "signs.metal"

struct iq3_s {
  enum {
    weights = 256,
    bytes = 110,
    scale_block = 8,
    exact_block = 256,
    exact_bits = 11,
    lut_words = 512
  };

  template <uint N, typename V>
  static inline float codes(device const uint8_t* block, uint first, device const uint* table,
                            thread V* q) {
    uint at = N == 8 ? 0 : first % 8;
    uint k = first / 8;
    device const uint8_t* index = block + 2 + k / 4 * 8 + k % 4 * 2;
    uint high_bits = block[66 + k / 4] >> (k % 4 * 2);
    uint s = block[106 + first / 64] >> (first / 32 % 2 * 4) & 15;
    float scale = float(2 * s + 1);
    uint signs = uint((block + 74 + k / 4 * 4)[k % 4]) >> at;
    uint low = lut(table, index[0] | (high_bits & 1) << 8);
    uint high = lut(table, index[1] | (high_bits >> 1 & 1) << 8);
    scale *= signed_lut<N>(low, high, at, signs, q);
    return nested_scale<N>(load_f16(block), scale, q);
  }
};

template <>
struct scale_traits<iq3_s, gguf_loader> {
  typedef float16_t type;
};
