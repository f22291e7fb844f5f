// Q6_K: 256 weights in 210 bytes, 6.5625 bits per weight
//
//   byte 0             128          192           208   210
//        | low[128]    | high[64]   | scales[16]  | d   |
//        | 2 x 4 bits  | 4 x 2 bits | int8        | f16 |
//
// Weight 128*h + 64*n + i has its low bits in nibble n of low[64*h + i];
// weight 128*h + 32*k + i has its high bits in bits 2k, 2k+1 of high[32*h + i].
// Each 16 weights have a scale s.
//
//   w = d*s*(low + 16*high - 32)

struct q6_k {
  enum { weights = 256, bytes = 210, scale_block = 16, zero = 32, int8_codes = 1 };

  template <uint N, typename V>
  static inline float codes(device const uint8_t* block, uint first, device const uint*,
                            thread V* q) {
    device const uint8_t* scales = block + 192 + first / 32 * 2;
    float scale = load_f16(block + 208) * float(int8_t(scales[first % 32 / 16]));
    device const uint8_t* bytes = block + (first / 128 * 64 + first % 64 / 32 * 32);
    fields<N> low = load_fields<N, 2>(bytes + first % 32, first / 64 % 2 * 4, 15);
    fields<N> high =
        load_fields<N, 2>(block + 128 + first / 128 * 32 + first % 32, first / 32 % 4 * 2, 3);
    to_numbers<N>(join<N>(low, high, 4), zero, q);
    return scale;
  }
};

template <>
struct scale_traits<q6_k, gguf_loader> {
  typedef wide_scale type;
};
