// out[m, i] = x[m, perm[i]] for x and out [M, columns]
//
// Where a row fits threadgroup memory, a threadgroup copies it there first: lanes gather from it
// faster than from the cache. Otherwise a threadgroup takes permute_chunk columns of a row.

enum { permute_chunk = 16384 };

// Gathers columns first ... end - 1 with all threads of a threadgroup. V is a pointer to a row of
// x.
template <typename T, typename V>
inline void gather(V x, device const int* perm, device T* out, uint first, uint end, bool aligned,
                   uint thread_index) {
  if (aligned) {
    for (uint i = first + thread_index * 8; i < end; i += 2048) {
      uint from[8];
      T v[8];
      load_words<8>((device const uint*)perm + i, from);
#pragma unroll
      for (uint k = 0; k < 8; ++k) v[k] = x[from[k]];
      store<8>(out + i, v);
    }
  } else {
    for (uint i = first + thread_index; i < end; i += 256) out[i] = x[perm[i]];
  }
}

// Chunks of a row.
inline uint permute_chunks(uint columns) { return (columns + permute_chunk - 1) / permute_chunk; }

// Gathers a threadgroup's chunk of a row of x.
template <typename T>
inline void gather_chunk(device const T* x, device const int* perm, device T* out, uint columns,
                         uint threadgroup_index, uint thread_index) {
  uint first = threadgroup_index % permute_chunks(columns) * permute_chunk;
  uint end = min(first + permute_chunk, columns);
  gather(x, perm, out, first, end, columns % 8 == 0, thread_index);
}

template <typename T>
inline void permute_columns(device const T* x, device const int* perm, device T* out,
                            thread const LaunchParams& p, uint threadgroup_index,
                            uint thread_index) {
  size_t row = size_t(threadgroup_index / permute_chunks(p.columns)) * p.columns;
  gather_chunk(x + row, perm, out + row, p.columns, threadgroup_index, thread_index);
}

template <typename T>
inline void permute_columns(device const T* x, device const int* perm, device T* out,
                            thread const LaunchParams& p, threadgroup float* scratch,
                            uint threadgroup_index, uint thread_index) {
  size_t row = size_t(threadgroup_index) * p.columns;
  threadgroup T* copy = (threadgroup T*)scratch;
  copy_to_threadgroup(x + row, p.columns, copy, thread_index);
  threadgroup_barrier(mem_flags::mem_threadgroup);
  gather((threadgroup const T*)copy, perm, out + row, 0, p.columns, p.columns % 8 == 0,
         thread_index);
}
