// BF16: the high half of a float32
//
//   byte 0      2
//        | w    |
//        | bf16 |

struct bf16 {
  enum { weights = 1, bytes = 2, scale_block = 4 };

  template <uint N>
  static inline float codes(device const uint8_t* block, uint, device const uint*,
                            thread float* q) {
    if (N == 1) {
      q[0] = as_type<float>(uint(block[0]) << 16 | uint(block[1]) << 24);
    } else {
      fields<2 * N> pairs = load_fields<2 * N, 2>(block, 0, 255);
      for (uint i = 0; i < N; ++i) {
        q[i] = as_type<float>(pairs.words[i / 2] << (16 - i % 2 * 16) & 0xffff0000);
      }
    }
    return 1.0f;
  }
};
