// BF16: the high half of a float32
//
//   byte 0      2
//        | w    |
//        | bf16 |

struct bf16 {
  enum { weights = 1, bytes = 2, run = 1 };

  template <uint N>
  static inline float codes(device const uint8_t* block, uint, thread float* q) {
    q[0] = as_type<float>(uint(block[0]) << 16 | uint(block[1]) << 24);
    return 1.0f;
  }
};
