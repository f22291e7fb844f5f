// The 8 scales and mins of Q4_K and Q5_K, 6 bits each, in 12 bytes:
//
//   scales[0..3]   s0..s3 in bits 0-5,  high bits of s4..s7 in bits 6-7
//   scales[4..7]   m0..m3 in bits 0-5,  high bits of m4..m7 in bits 6-7
//   scales[8..11]  low nibble: low bits of s4..s7, high nibble: low bits of m4..m7

struct scale_and_min {
  uint s, m;
};

inline scale_and_min k_scales(device const uint8_t* scales, uint j) {
  scale_and_min result;
  if (j < 4) {
    result.s = scales[j] & 63;
    result.m = scales[j + 4] & 63;
  } else {
    result.s = (scales[j + 4] & 15) | scales[j - 4] >> 6 << 4;
    result.m = scales[j + 4] >> 4 | scales[j] >> 6 << 4;
  }
  return result;
}
