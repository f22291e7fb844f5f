// Q1_0: 128 weights in 18 bytes, 1.125 bits per weight
//
//   byte 0     2              18
//        | d   | bits[16]      |
//        | f16 | 8 x 1 bit     |
//
// Weight i is bit i%8 of byte i/8.
//
//   w = bit ? d : -d

struct q1_0 {
  enum {
    weights = 128,
    bytes = 18,
    scale_block = 32,
    exact_block = 128,
    exact_bits = 8,
    int8_codes = 1
  };

  template <uint N, typename V>
  static inline float codes(device const uint8_t* block, uint first, device const uint*,
                            thread V* q) {
    uint bits = load_u32(block + 2 + first / 32 * 4);
    fields<N> twice = spread<N>(bits >> first % 32);
    for (uint i = 0; i < (N + 3) / 4; ++i) twice.words[i] <<= 1;
    to_numbers<N>(twice, 1, q);
    return load_f16(block);
  }
};

template <>
struct scale_traits<q1_0, gguf_loader> {
  typedef float16_t type;
};
