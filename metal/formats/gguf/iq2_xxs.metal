// IQ2_XXS: 256 weights in 66 bytes, 2.0625 bits per weight
//
//   byte 0     2                          66
//        | d   | 8 x (index[4], tail)      |
//        | f16 | 4 bytes, 32 bits          |
//
// Each 32 weights: four 8-bit indices into the grid, one for 8 weights, and a tail word:
//
//   bits   31..28   27..21   20..14   13..7   6..0
//          scale s  signs 3  signs 2  signs 1  signs 0
//
//   w = d*(s + 0.5)/4 * grid * sign

#include "signs.metal"

struct iq2_xxs {
  enum {
    weights = 256,
    bytes = 66,
    scale_block = 8,
    exact_block = 256,
    exact_bits = 11,
    lut_words = 512
  };

  template <uint N, typename V>
  static inline float codes(device const uint8_t* block, uint first, device const uint* table,
                            thread V* q) {
    uint at = N == 8 ? 0 : first % 8;
    device const uint8_t* group = block + 2 + first / 32 * 8;
    uint k = first / 8 % 4;
    uint tail = load_u32(group + 4);
    uint index = group[k];
    float scale = (0.5f + float(tail >> 28)) * 0.25f;
    uint signs = even_signs(tail >> (7 * k) & 127) >> at;
    uint low = lut(table, 2 * index);
    uint high = lut(table, 2 * index + 1);
    scale *= signed_lut<N>(low, high, at, signs, q);
    return nested_scale<N>(load_f16(block), scale, q);
  }
};

template <>
struct scale_traits<iq2_xxs, gguf_loader> {
  typedef float16_t type;
};
