// Q8_0: 32 weights in 34 bytes, 8.5 bits per weight
//
//   byte 0     2              34
//        | d   | codes[32]     |
//        | f16 | int8          |
//
//   w = d*q

struct q8_0 {
  enum {
    weights = 32,
    bytes = 34,
    scale_block = 32,
    exact_block = 32,
    exact_bits = 8,
    int8_codes = 1
  };

  template <uint N, typename V>
  static inline float codes(device const uint8_t* block, uint first, device const uint*,
                            thread V* q) {
    load_signed<N, 2>(block + 2 + first, q);
    return load_f16(block);
  }
};

template <>
struct scale_traits<q8_0, gguf_loader> {
  typedef float16_t type;
};
