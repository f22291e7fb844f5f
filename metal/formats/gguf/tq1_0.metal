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

struct tq1_0 {
  enum {
    weights = 256,
    bytes = 54,
    scale_block = 16,
    exact_block = 256,
    exact_bits = 8,
    int8_codes = 1
  };

  // 3^k for k < 5
  static inline uint power(uint k) { return (k & 1 ? 3 : 1) * (k & 2 ? 9 : 1) * (k & 4 ? 81 : 1); }

  // The digit of each byte of a word that `power` brings to the front, two bytes at a time.
  static inline uint digits(uint word, uint power) {
    uint even = (word & 0x00ff00ff) * power & 0x00ff00ff;
    uint odd = (word >> 8 & 0x00ff00ff) * power & 0x00ff00ff;
    return (even * 3 >> 8 & 0x00030003) | (odd * 3 & 0x03000300);
  }

  // Without branches: compilers would decode twice. Words of c are the last that are loaded.
  template <uint N, typename V>
  static inline float codes(device const uint8_t* block, uint first, device const uint*,
                            thread V* q) {
    const uint words = (N + 3) / 4;
    bool in_a = first < 160, in_c = first >= 240;
    uint k = in_c ? (first - 240) / 4 : in_a ? first / 32 : (first - 160) / 16;
    uint at = in_c ? 52 - 4 * words + (N < 4 ? first % 4 : 0) : in_a ? first % 32 : 32 + first % 16;
    fields<N> ternary = load_fields<N, 2>(block + at, 0, 255);
    uint mask = in_c ? ~0u : 0u;
    uint last = ternary.words[words - 1] & mask;
    for (uint i = 0; i < words; ++i) {
      ternary.words[i] = digits((ternary.words[i] & ~mask) | last, power(k + (i & mask)));
    }
    to_numbers<N>(ternary, 1, q);
    return load_f16(block + 52);
  }
};

template <>
struct scale_traits<tq1_0, gguf_loader> {
  typedef float16_t type;
};
