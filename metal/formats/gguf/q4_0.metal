// Q4_0: 32 weights in 18 bytes, 4.5 bits per weight
//
//   byte 0     2              18
//        | d   | codes[16]     |
//        | f16 | 2 x 4 bits    |
//
// Byte i holds weight i in its low nibble and weight i + 16 in its high nibble.
//
//   w = d*(q - 8)

struct q4_0 {
  enum {
    weights = 32,
    bytes = 18,
    scale_block = 16,
    exact_block = 32,
    exact_bits = 8,
    int8_codes = 1
  };

  template <uint N, typename V>
  static inline float codes(device const uint8_t* block, uint first, device const uint*,
                            thread V* q) {
    load_codes<N, 2>(block + 2 + first % 16, first / 16 * 4, 15, 8, q);
    return load_f16(block);
  }
};

template <>
struct scale_traits<q4_0, gguf_loader> {
  typedef float16_t type;
};
