// TQ2_0: 256 weights in 66 bytes, 2.0625 bits per weight
//
//   byte 0            64    66
//        | codes[64]  | d   |
//        | 4 x 2 bits | f16 |
//
// 32 bytes for each 128 weights; weight 32*k + i of them is bits 2k, 2k+1 of byte i.
//
//   w = d*(q - 1)

struct tq2_0 {
  enum {
    weights = 256,
    bytes = 66,
    scale_block = 32,
    exact_block = 256,
    exact_bits = 8,
    int8_codes = 1
  };

  template <uint N, typename V>
  static inline float codes(device const uint8_t* block, uint first, device const uint*,
                            thread V* q) {
    load_codes<N, 2>(block + first / 128 * 32 + first % 32, first / 32 % 4 * 2, 3, 1, q);
    return load_f16(block + 64);
  }
};

template <>
struct scale_traits<tq2_0, gguf_loader> {
  typedef float16_t type;
};

template <>
struct runs_of_bytes<tq2_0> {
  enum { value = 4 };
};
