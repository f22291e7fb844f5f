// Q8_0: 32 weights in 34 bytes, 8.5 bits per weight
//
//   byte 0     2              34
//        | d   | codes[32]     |
//        | f16 | int8          |
//
//   w = d*q

struct q8_0 {
  enum { weights = 32, bytes = 34, run = 32 };

  template <uint N>
  static inline void decode(device const uint8_t* block, uint first, thread float* w) {
    float d = load_f16(block);
    uint8_t codes[N];
    load_bytes<N, 2>(block + 2 + first, codes);

    for (uint i = 0; i < N; ++i) w[i] = d * float(int8_t(codes[i]));
  }
};
