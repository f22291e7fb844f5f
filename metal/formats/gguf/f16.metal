// F16: IEEE half precision as it is
//
//   byte 0     2
//        | w   |
//        | f16 |

struct f16 {
  enum { weights = 1, bytes = 2, run = 1 };

  template <uint N>
  static inline float codes(device const uint8_t* block, uint, thread float* q) {
    q[0] = load_f16(block);
    return 1.0f;
  }
};
