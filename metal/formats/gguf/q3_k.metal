// Q3_K: 256 weights in 110 bytes, 3.4375 bits per weight
//
//   byte 0            32            96              108   110
//        | high[32]   | codes[64]   | scales[12]    | d   |
//        | 8 x 1 bit  | 4 x 2 bits  | 16 x 6 bits   | f16 |
//
// Codes: 32 bytes for each 128 weights; weight 32*k + i of them is bits 2k, 2k+1 of byte i.
// Bit k of high[i] is the third bit of weight 32*k + i, inverted.
// Scale j of 16 weights: low nibble of scales[j] for j < 8, high nibble of scales[j - 8] after;
// its two high bits are bits 2*(j/4), 2*(j/4)+1 of scales[8 + j%4].
//
//   w = d*(s - 32)*(q + 4*bit - 4)

struct q3_k {
  enum {
    weights = 256,
    bytes = 110,
    scale_block = 16,
    exact_block = 256,
    exact_bits = 8,
    int8_codes = 1
  };

  template <uint N, typename V>
  static inline float codes(device const uint8_t* block, uint first, device const uint*,
                            thread V* q) {
    // Neighbouring scales share their loads.
    device const ushort* scales = (device const ushort*)(block + 96);
    uint j = first / 16, byte = j % 2 * 8;
    uint s = (scales[j % 8 / 2] >> (byte + j / 8 * 4) & 15) |
             (scales[4 + j % 4 / 2] >> (byte + j / 4 * 2) & 3) << 4;
    float scale = float(int(s) - 32);
    fields<N> low =
        load_fields<N, 2>(block + 32 + first / 128 * 32 + first % 32, first / 32 % 4 * 2, 3);
    fields<N> high = load_fields<N, 2>(block + first % 32, first / 32, 1);
    to_numbers<N>(join<N>(low, high, 2), 4, q);
    return nested_scale<N>(load_f16(block + 108), scale, q);
  }
};

template <>
struct scale_traits<q3_k, gguf_loader> {
  typedef float16_t type;
};

template <>
struct runs_of_bytes<q3_k> {
  enum { value = 4 };
};
