// Q5_0: 32 weights in 22 bytes, 5.5 bits per weight
//
//   byte 0     2          6              22
//        | d   | high     | codes[16]     |
//        | f16 | 32 x 1   | 2 x 4 bits    |
//
// Byte i of codes holds the low bits of weight i (low nibble) and of weight i + 16 (high nibble).
// Bit i of high is the fifth bit of weight i.
//
//   w = d*(q - 16)

struct q5_0 {
  enum {
    weights = 32,
    bytes = 22,
    scale_block = 16,
    exact_block = 32,
    exact_bits = 8,
    int8_codes = 1
  };

  template <uint N, typename V>
  static inline float codes(device const uint8_t* block, uint first, device const uint*,
                            thread V* q) {
    fields<N> low = load_fields<N, 2>(block + 6 + first % 16, first / 16 * 4, 15);
    fields<N> high = spread<N>(load_u32(block + 2) >> first);
    to_numbers<N>(join<N>(low, high, 4), 16, q);
    return load_f16(block);
  }
};

template <>
struct scale_traits<q5_0, gguf_loader> {
  typedef float16_t type;
};
