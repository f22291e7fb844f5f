// F16: IEEE half precision as it is
//
//   byte 0     2
//        | w   |
//        | f16 |

struct f16 {
  enum { weights = 1, bytes = 2, scale_block = 4 };

  template <uint N>
  static inline float codes(device const uint8_t* block, uint, device const uint*,
                            thread float* q) {
    if (N == 1) {
      q[0] = load_f16(block);
    } else {
      fields<2 * N> pairs = load_fields<2 * N, 2>(block, 0, 255);
      for (uint i = 0; i < N; i += 2) f16_pair(pairs.words[i / 2], q + i);
    }
    return 1.0f;
  }
};
