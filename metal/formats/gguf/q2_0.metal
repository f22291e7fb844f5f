// Q2_0: 64 weights in 18 bytes, 2.25 bits per weight
//
//   byte 0     2              18
//        | d   | codes[16]     |
//        | f16 | 4 x 2 bits    |
//
// Weight i is bits 2*(i%4), 2*(i%4)+1 of byte i/4.
//
//   w = d*(q - 1)

struct q2_0 {
  enum { weights = 64, bytes = 18, run = 32 };

  template <uint N>
  static inline float codes(device const uint8_t* block, uint first, thread float* q) {
    uint8_t bytes[(N + 3) / 4];
    load_bytes<(N + 3) / 4, 2>(block + 2 + first / 4, bytes);

    uint at = N < 4 ? first % 4 : 0;
    for (uint i = 0; i < N; ++i) {
      q[i] = float(int(bytes[i / 4] >> (at + i) % 4 * 2 & 3) - 1);
    }
    return load_f16(block);
  }
};
