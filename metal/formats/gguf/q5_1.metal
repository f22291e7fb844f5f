// Q5_1: 32 weights in 24 bytes, 6 bits per weight
//
//   byte 0     2     4          8              24
//        | d   | m   | high     | codes[16]     |
//        | f16 | f16 | 32 x 1   | 2 x 4 bits    |
//
// Byte i of codes holds the low bits of weight i (low nibble) and of weight i + 16 (high nibble).
// Bit i of high is the fifth bit of weight i.
//
//   w = d*q + m

struct q5_1 {
  enum {
    weights = 32,
    bytes = 24,
    scale_block = 16,
    exact_block = 32,
    exact_bits = 8,
    int8_codes = 1
  };

  template <uint N, typename V>
  static inline scaling codes(device const uint8_t* block, uint first, device const uint*,
                              thread V* q) {
    uint head[1];
    load_words<1>((device const uint*)block, head);
    float by[2];
    f16_pair(head[0], by);
    fields<N> low = load_fields<N, 8>(block + 8 + first % 16, first / 16 * 4, 15);
    fields<N> high = spread<N>(load_u32(block + 4) >> first);
    float unit = to_numbers<N>(join<N>(low, high, 4), q);
    scaling result = {by[0] * unit, -by[1]};
    return result;
  }
};

template <>
struct has_min<q5_1> {
  enum { value = 1 };
};
