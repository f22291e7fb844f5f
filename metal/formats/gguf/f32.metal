// F32: float32 as it is
//
//   byte 0     4
//        | w   |
//        | f32 |

struct f32 {
  enum { weights = 1, bytes = 4, run = 1 };

  template <uint N>
  static inline float codes(device const uint8_t* block, uint, thread float* q) {
    q[0] = as_type<float>(load_u32(block));
    return 1.0f;
  }
};
