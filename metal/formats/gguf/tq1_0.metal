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
  enum {
    weights = 256,
    bytes = 54,
    scale_block = 16,
    exact_block = 256,
    exact_bits = 8,
    int8_codes = 1
  };

  // Digit k of each byte of a word, two bytes at a time.
  static inline uint digits(uint word, uint k) {
    uint even = (word & 0x00ff00ff) * tq1_0_powers[k] & 0x00ff00ff;
    uint odd = (word >> 8 & 0x00ff00ff) * tq1_0_powers[k] & 0x00ff00ff;
    return (even * 3 >> 8 & 0x00030003) | (odd * 3 & 0x03000300);
  }

  template <uint N, typename V>
  static inline float codes(device const uint8_t* block, uint first, thread V* q) {
    fields<N> ternary;
    if (first < 240) {
      uint k = first < 160 ? first / 32 : (first - 160) / 16;
      ternary = load_fields<N, 2>(block + (first < 160 ? first % 32 : 32 + first % 16), 0, 255);
      for (uint i = 0; i < (N + 3) / 4; ++i) ternary.words[i] = digits(ternary.words[i], k);
    } else {
      const uint count = N < 4 ? N : 4;
      fields<count> four = load_fields<count, 2>(block + 48 + (N < 4 ? first % 4 : 0), 0, 255);
      for (uint i = 0; i < (N + 3) / 4; ++i) {
        ternary.words[i] = digits(four.words[0], (first - 240) / 4 + i);
      }
    }
    to_numbers<N>(ternary, 1, q);
    return load_f16(block + 52);
  }
};

template <>
struct scale_traits<tq1_0, gguf_loader> {
  typedef float16_t type;
};
