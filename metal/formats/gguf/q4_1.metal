// Q4_1: 32 weights in 20 bytes, 5 bits per weight
//
//   byte 0     2     4              20
//        | d   | m   | codes[16]     |
//        | f16 | f16 | 2 x 4 bits    |
//
// Byte i holds weight i in its low nibble and weight i + 16 in its high nibble.
//
//   w = d*q + m

struct q4_1 {
  enum {
    weights = 32,
    bytes = 20,
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
    float unit = load_codes<N, 4>(block + 4 + first % 16, first / 16 * 4, 15, q);
    scaling result = {by[0] * unit, -by[1]};
    return result;
  }
};

template <>
struct has_min<q4_1> {
  enum { value = 1 };
};
