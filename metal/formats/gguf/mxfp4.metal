// MXFP4: 32 weights in 17 bytes, 4.25 bits per weight
//
//   byte 0      1              17
//        | e    | codes[16]     |
//        | e8m0 | 2 x e2m1      |
//
// Byte i holds weight i in its low nibble and weight i + 16 in its high nibble.
//
//   w = 2^(e - 127) * e2m1(q)
//
// The smallest scales are subnormal, which some GPUs flush to zero. So the power is applied as two
// factors, each of them normal.

#include "e2m1.metal"

struct mxfp4 {
  enum { weights = 32, bytes = 17, scale_block = 16, int8_codes = 1 };

  // 2^(x - 64)
  static inline float power(uint x) { return as_type<float>((x + 63) << 23); }

  template <uint N, typename V>
  static inline float codes(device const uint8_t* block, uint first, device const uint*,
                            thread V* q) {
    uint e = block[0];
    float unit = load_e2m1<N, 1>(block + 1 + first % 16, first / 16 * 4, twice_e2m1, q);
    return pow2_scale<N>(unit * power(e / 2), power(e - e / 2), q);
  }
};

template <>
struct scale_traits<mxfp4, gguf_loader> {
  typedef float16_t type;
};
