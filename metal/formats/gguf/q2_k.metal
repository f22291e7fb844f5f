// Q2_K: 256 weights in 84 bytes, 2.625 bits per weight
//
//   byte 0                16              80    82     84
//        | scales[16]      | codes[64]     | d   | dmin |
//        | 4-bit s, 4-bit m| 4 x 2 bits    | f16 | f16  |
//
// Each 16 weights have a scale s (low nibble of their byte) and a min m (high nibble).
// Codes: 32 bytes for each 128 weights; weight 32*k + i of them is bits 2k, 2k+1 of byte i.
//
//   w = d*s*q - dmin*m

struct q2_k {
  enum { weights = 256, bytes = 84, scale_block = 16, int8_codes = 1 };

  template <uint N, typename V>
  static inline scaling codes(device const uint8_t* block, uint first, device const uint*,
                              thread V* q) {
    uint sm = ((device const ushort*)block)[first / 32] >> (first % 32 / 16 * 8) & 255;
    float scale = load_f16(block + 80) * float(sm & 15);
    float min = load_f16(block + 82) * float(sm >> 4);
    device const uint8_t* bytes = block + 16 + first / 128 * 32 + first % 32;
    scale *= load_codes<N, 4>(bytes, first / 32 % 4 * 2, 3, q);
    scaling result = {scale, min};
    return result;
  }
};

template <>
struct has_min<q2_k> {
  enum { value = 1 };
};
