// TQ1_0: 256 weights in 54 bytes, 1.6875 bits per weight
//
//   byte 0             32            48          52    54
//        | a[32]       | b[16]       | c[4]      | d   |
//        | 5 x ternary | 5 x ternary | 4 x tern. | f16 |
//
// A byte is a fraction in base 3: digit k is the integer part of 3*(byte * 3^k mod 256)/256.
// Weight 32*k + i is digit k of a[i]; then 160 + 16*k + i of b[i]; then 240 + 4*k + i of c[i].
//
//   w = d*(digit - 1)

TABLE uint8_t tq1_0_powers[5] = {1, 3, 9, 27, 81};

struct tq1_0 {
  enum { weights = 256, bytes = 54, run = 16 };

  static inline float digit(uint code, uint k) {
    return less((code * tq1_0_powers[k] & 255) * 3 >> 8, offset_of(1));
  }

  template <uint N>
  static inline float codes(device const uint8_t* block, uint first, thread float* q) {
    if (first < 240) {
      uint k = first < 160 ? first / 32 : (first - 160) / 16;
      uint8_t bytes[N];
      load_bytes<N, 2>(block + (first < 160 ? first % 32 : 32 + first % 16), bytes);
      for (uint i = 0; i < N; ++i) q[i] = digit(bytes[i], k);
    } else {
      for (uint i = 0; i < N; ++i) {
        uint at = first - 240 + i;
        q[i] = digit(block[48 + at % 4], at / 4);
      }
    }
    return load_f16(block + 52);
  }
};
