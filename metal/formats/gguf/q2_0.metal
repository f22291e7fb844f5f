// Q2_0: 64 weights in 18 bytes, 2.25 bits per weight
//
//   byte 0     2              18
//        | d   | codes[16]     |
//        | f16 | 4 x 2 bits    |
//
// Weight i is bits 2*(i%4), 2*(i%4)+1 of byte i/4.
//
//   w = d*(q - 1)

struct q2_0 {
  enum {
    weights = 64,
    bytes = 18,
    scale_block = 16,
    exact_block = 64,
    exact_bits = 8,
    int8_codes = 1
  };

  template <uint N, typename V>
  static inline float codes(device const uint8_t* block, uint first, device const uint*,
                            thread V* q) {
    uint bits = load_u32(block + 2 + first / 32 * 8 + first % 32 / 16 * 4);
    to_numbers<N>(spread_pairs<N>(bits >> first % 16 * 2), 1, q);
    return load_f16(block);
  }
};

template <>
struct scale_traits<q2_0, gguf_loader> {
  typedef float16_t type;
};
