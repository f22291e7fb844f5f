// IQ3_XXS: 256 weights in 98 bytes, 3.0625 bits per weight
//
//   byte 0     2            66              98
//        | d   | index[64]  | tails[8]       |
//        | f16 | 8 bits     | 32 bits        |
//
// Each 4 weights have an index into the grid. Each 32 weights have a tail word:
//
//   bits   31..28   27..21   20..14   13..7    6..0
//          scale s  signs 3  signs 2  signs 1  signs 0
//
//   w = d*(s + 0.5)/2 * grid * sign

#include "signs.metal"

struct iq3_xxs {
  enum {
    weights = 256,
    bytes = 98,
    scale_block = 8,
    exact_block = 256,
    exact_bits = 11,
    lut_words = 256
  };

  template <uint N, typename V>
  static inline float codes(device const uint8_t* block, uint first, device const uint* table,
                            thread V* q) {
    uint at = N == 8 ? 0 : first % 8;
    uint k = first / 8;
    uint index = ((device const ushort*)(block + 2 + k / 4 * 8))[k % 4];
    uint tail = load_u32(block + 66 + k / 4 * 4);
    float scale = (0.5f + float(tail >> 28)) * 0.5f;
    uint signs = even_signs(tail >> (k % 4 * 7) & 127) >> at;
    uint low = lut(table, index & 255);
    uint high = lut(table, index >> 8);
    scale *= signed_lut<N>(low, high, at, signs, q);
    return nested_scale<N>(load_f16(block), scale, q);
  }
};

template <>
struct scale_traits<iq3_xxs, gguf_loader> {
  typedef float16_t type;
};
