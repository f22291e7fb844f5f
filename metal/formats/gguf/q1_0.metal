// Q1_0: 128 weights in 18 bytes, 1.125 bits per weight
//
//   byte 0     2              18
//        | d   | bits[16]      |
//        | f16 | 8 x 1 bit     |
//
// Weight i is bit i%8 of byte i/8.
//
//   w = bit ? d : -d

struct q1_0 {
  enum { weights = 128, bytes = 18, run = 32 };

  static inline uint shift(uint i) { return i; }

  template <uint N>
  static inline float codes(device const uint8_t* block, uint first, thread float* q) {
    const uint step = N < 8 ? N : 8;
    uint8_t bits[(N + 7) / 8];
    load_bytes<(N + 7) / 8, 2>(block + 2 + first / 8, bits);

    for (uint i = 0; i < N; i += step) {
      uint bit[step];
      split<step, q1_0>(bits[i / 8], 1, N < 8 ? first % 8 : 0, bit);
      for (uint k = 0; k < step; ++k) q[i + k] = float(2 * int(bit[k]) - 1);
    }
    return load_f16(block);
  }
};
