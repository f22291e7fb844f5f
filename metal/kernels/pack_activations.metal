// out = x by tiles of VECTORS vectors and 4 * RUN inputs, each as the platform's product wants it
//
// x is [vectors, inputs]; past them are zeros. sizes are those two numbers. A thread takes eight
// inputs.

template <typename T, uint VECTORS, uint RUN, typename X>
inline void pack_activations(device const X* x, device T* out, device const uint* sizes,
                             uint threadgroup_index, uint thread_index) {
  const uint step = 4 * RUN;
  uint vectors = sizes[0];
  uint inputs = sizes[1];
  uint steps = (inputs + step - 1) / step;
  uint octets = steps * step / 8;
  uint at = threadgroup_index * 256 + thread_index;
  uint vector = at / octets;
  uint input = at % octets * 8;
  if (vector >= (vectors + VECTORS - 1) / VECTORS * VECTORS) return;
  out += (size_t(vector / VECTORS) * steps + input / step) * (VECTORS * step);
  x += size_t(vector) * inputs + input;
  float v[8];
  if (vector < vectors && input + 8 <= inputs && is_aligned(x)) {
    load<8, true>(x, v);
  } else {
#pragma unroll
    for (uint i = 0; i < 8; ++i) {
      v[i] = vector < vectors && input + i < inputs ? float(x[i]) : 0.0f;
    }
  }
#pragma unroll
  for (uint i = 0; i < 8; i += together) {
    store_swizzled(v + i, out + swizzled_offset<VECTORS, RUN>(vector % VECTORS, input % step + i));
  }
}
