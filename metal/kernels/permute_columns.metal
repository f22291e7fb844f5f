// out[v, i] = x[v, order[i]]
//
// x and out are [vectors, inputs]; sizes are those two numbers. A threadgroup takes a whole vector
// where it has threadgroup memory for one, from where lanes gather faster than from cache lines.
// Otherwise it takes a long part of one, which a cache then holds.

enum { permute_chunk = 16384 };

// Inputs first ... end - 1, by all threads of a threadgroup. V points to a vector's values.
template <typename T, typename V>
inline void gather(V x, device const int* order, device T* out, uint first, uint end, bool aligned,
                   uint thread_index) {
  if (aligned) {
    for (uint i = first + thread_index * 8; i < end; i += 2048) {
      uint from[8];
      T v[8];
      load_words<8>((device const uint*)order + i, from);
#pragma unroll
      for (uint k = 0; k < 8; ++k) v[k] = x[from[k]];
      store<8>(out + i, v);
    }
  } else {
    for (uint i = first + thread_index; i < end; i += 256) out[i] = x[order[i]];
  }
}

template <typename T>
inline void permute_columns(device const T* x, device const int* order, device T* out,
                            device const uint* sizes, uint threadgroup_index, uint thread_index) {
  uint inputs = sizes[1];
  uint parts = (inputs + permute_chunk - 1) / permute_chunk;
  size_t row = size_t(threadgroup_index / parts) * inputs;
  uint first = threadgroup_index % parts * permute_chunk;
  uint end = min(first + permute_chunk, inputs);
  gather(x + row, order, out + row, first, end, inputs % 8 == 0, thread_index);
}

template <typename T>
inline void permute_columns(device const T* x, device const int* order, device T* out,
                            device const uint* sizes, threadgroup float* scratch,
                            uint threadgroup_index, uint thread_index) {
  uint inputs = sizes[1];
  size_t row = size_t(threadgroup_index) * inputs;
  threadgroup T* held = (threadgroup T*)scratch;
  bring(x + row, inputs, held, thread_index);
  threadgroup_barrier(mem_flags::mem_threadgroup);
  gather((threadgroup const T*)held, order, out + row, 0, inputs, inputs % 8 == 0, thread_index);
}
