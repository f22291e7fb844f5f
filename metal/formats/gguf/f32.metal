// F32: float32 as it is
//
//   byte 0     4
//        | w   |
//        | f32 |

struct f32 {
  enum { weights = 1, bytes = 4, scale_block = 4 };

  template <uint N>
  static inline float codes(device const uint8_t* block, uint, device const uint*,
                            thread float* q) {
    fields<4 * N> words = load_fields<4 * N, 4>(block, 0, 255);
    for (uint i = 0; i < N; ++i) q[i] = as_type<float>(words.words[i]);
    return 1.0f;
  }
};
