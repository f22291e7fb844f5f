// out = x [M, columns] packed into tiles of BM rows and 4 * TK inputs, in the order in which qmm's
// matrix unit reads them (swizzled_offset)
//
// Tiles are filled up with zeros. A thread packs eight inputs.

template <typename T, uint BM, uint TK, typename X>
inline void pack_activations(device const X* x, device T* out, thread const LaunchParams& p,
                             uint threadgroup_index, uint thread_index) {
  const uint BK = 4 * TK;
  uint steps = (p.columns + BK - 1) / BK;
  uint octets = steps * BK / 8;
  uint at = threadgroup_index * 256 + thread_index;
  uint row = at / octets;
  uint input = at % octets * 8;
  if (row >= (p.M + BM - 1) / BM * BM) return;
  out += (size_t(row / BM) * steps + input / BK) * (BM * BK);
  x += size_t(row) * p.columns + input;
  float v[8];
  if (row < p.M && input + 8 <= p.columns && is_aligned(x, p.columns)) {
    load<8, true>(x, v);
  } else {
#pragma unroll
    for (uint i = 0; i < 8; ++i) {
      v[i] = row < p.M && input + i < p.columns ? float(x[i]) : 0.0f;
    }
  }
#pragma unroll
  for (uint i = 0; i < 8; i += swizzle_width) {
    store_swizzled(v + i, out + swizzled_offset<BM, TK>(row % BM, input % BK + i));
  }
}
