// out[v, i] = x[v, order[i]]
//
// x and out are [vectors, inputs]; sizes are those two numbers. A threadgroup takes a long part of
// one vector, which a cache then holds.

enum { reorder_part = 16384 };

template <typename T, typename X>
inline void reorder(device const X* x, device const int* order, device T* out,
                    device const uint* sizes, uint threadgroup_index, uint thread_index) {
  uint inputs = sizes[1];
  uint parts = (inputs + reorder_part - 1) / reorder_part;
  size_t row = size_t(threadgroup_index / parts) * inputs;
  uint first = threadgroup_index % parts * reorder_part;
  uint end = min(first + reorder_part, inputs);
  bool aligned = inputs % 8 == 0;
  x += row;
  out += row;
  for (uint i = first + thread_index * 8; i < end; i += 2048) {
    uint from[8];
    float v[8];
    if (aligned) {
      load_words<8>((device const uint*)order + i, from);
#pragma unroll
      for (uint k = 0; k < 8; ++k) v[k] = float(x[from[k]]);
      store<8>(out + i, v);
    } else {
      for (uint k = i; k < min(i + 8, end); ++k) out[k] = T(float(x[order[k]]));
    }
  }
}
