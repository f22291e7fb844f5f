// The first 16 bytes of Q4_K and Q5_K: d, dmin, then 8 scales and 8 mins of 6 bits in 12 bytes
//
//   scales[0..3]   s0..s3 in bits 0-5,  high bits of s4..s7 in bits 6-7
//   scales[4..7]   m0..m3 in bits 0-5,  high bits of m4..m7 in bits 6-7
//   scales[8..11]  low nibble: low bits of s4..s7, high nibble: low bits of m4..m7

// The scale d*s and the min dmin*m of the j-th 32 weights of a block.
inline scaling k_scales(device const uint8_t* block, uint j) {
  uint words[4];
  load_words<4>((device const uint*)block, words);
  uint s = words[1] >> (j % 4 * 8);
  uint m = words[2] >> (j % 4 * 8);
  uint low = words[3] >> (j % 4 * 8);
  // Without a branch, around which compilers would keep more registers alive.
  uint first = j < 4 ? 63 : 0;
  s = (s & first) | (((low & 15) | (s >> 2 & 48)) & ~first);
  m = (m & first) | (((low >> 4 & 15) | (m >> 2 & 48)) & ~first);
  float by[2];
  f16_pair(words[0], by);
  scaling result = {by[0] * float(int(s)), by[1] * float(int(m))};
  return result;
}
