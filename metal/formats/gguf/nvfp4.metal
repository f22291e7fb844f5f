// NVFP4: 64 weights in 36 bytes, 4.5 bits per weight
//
//   byte 0           4              36
//        | scales[4] | codes[32]     |
//        | ue4m3     | 2 x e2m1      |
//
// Each 16 weights have a scale and 8 bytes of codes: byte i holds weight i in its low nibble and
// weight i + 8 in its high nibble. Scale bytes 0x00 and 0x7f mean 0.
//
//   w = ue4m3(s) * e2m1(q)

#include "e2m1.metal"

struct nvfp4 {
  enum { weights = 64, bytes = 36, scale_block = 8 };

  // Half of a scale. As a float16, its bits have an exponent that is 8 too small.
  static inline float half_ue4m3(uint s) {
    return s == 0x7f ? 0.0f : f16_of((s & 127) << 7) * 128.0f;
  }

  template <uint N, typename V>
  static inline float codes(device const uint8_t* block, uint first, device const uint*,
                            thread V* q) {
    device const uint8_t* bytes = block + 4 + first / 32 * 16 + first % 32 / 16 * 8;
    look_up<N, 4>(bytes + first % 8, first / 8 % 2 * 4, twice_e2m1, q);
    return half_ue4m3((block + first / 32 * 2)[first % 32 / 16]);
  }
};

template <>
struct scale_traits<nvfp4, gguf_loader> {
  typedef float16_t type;
};
