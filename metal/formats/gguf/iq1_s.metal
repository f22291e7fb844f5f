// IQ1_S: 256 weights in 50 bytes, 1.5625 bits per weight
//
//   byte 0     2            34          50
//        | d   | index[32]  | high[8]    |
//        | f16 | low bits   | 16 bits    |
//
// Each 8 weights have an 11-bit index into the grid. Each 32 weights have a high word:
//
//   bits   15          14..12   11..9    8..6     5..3     2..0
//          delta sign  scale s  index 3  index 2  index 1  index 0
//
//   w = d*(2*s + 1) * (grid + delta)      delta = 1/8 or -1/8

#include "iq1_values.metal"

struct iq1_s {
  enum {
    weights = 256,
    bytes = 50,
    scale_block = 8,
    exact_block = 256,
    exact_bits = 8,
    lut_words = 1024
  };

  template <uint N, typename V>
  static inline float codes(device const uint8_t* block, uint first, device const uint* table,
                            thread V* q) {
    uint k = first / 8;
    uint high = block[34 + k / 4 * 2] | uint(block[35 + k / 4 * 2]) << 8;
    uint index = (block + 2 + k / 4 * 4)[k % 4] | (high >> (k % 4 * 3) & 7) << 8;
    iq1_values<N>(table, index, N == 8 ? 0 : first % 8, high >> 15, q);
    return nested_scale<N>(load_f16(block), float(2 * (high >> 12 & 7) + 1) * 0.125f, q);
  }
};

template <>
struct scale_traits<iq1_s, gguf_loader> {
  typedef float16_t type;
};
