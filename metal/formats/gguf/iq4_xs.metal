// IQ4_XS: 256 weights in 136 bytes, 4.25 bits per weight
//
//   byte 0     2          4          8               136
//        | d   | high     | low[4]   | codes[128]     |
//        | f16 | 8 x 2    | 2 x 4    | 2 x 4 bits     |
//
// Each 32 weights have a 6-bit scale s: nibble k%2 of low[k/2], then bits 2k, 2k+1 of high.
// Each 16 bytes of codes hold 16 weights in their low nibbles, the next 16 in their high ones.
//
//   w = d*(s - 32) * value[q]

#include "../tables/iq4.metal"

struct iq4_xs {
  enum {
    weights = 256,
    bytes = 136,
    scale_block = 16,
    exact_block = 32,
    exact_bits = 8,
    int8_codes = 1
  };

  template <uint N, typename V>
  static inline float codes(device const uint8_t* block, uint first, device const uint*,
                            thread V* q) {
    uint k = first / 32;
    uint words[2];
    load_words<2>((device const uint*)block, words);
    uint s = (words[1] >> 4 * k & 15) | (words[0] >> (16 + 2 * k) & 3) << 4;
    float scale = f16_of(words[0]) * float(int(s) - 32);
    look_up<N, 8>(block + 8 + k * 16 + first % 16, first / 16 % 2 * 4, iq4_values, q);
    return scale;
  }
};
