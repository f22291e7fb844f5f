// out[vectors, columns] = x[vectors, rows] times the matrix: this call does the runs of 32 columns
// numbered begin to end - 1. Accumulated in float32, row after row.

template <uint M, typename F, typename S>
static inline void transposed_of(const S& source, const float* x, float* __restrict out,
                                 const uint* sizes, size_t begin, size_t end) {
  const uint N = 32;
  const uint block = 16;  // runs whose sums stay in the first cache
  const uint rows = sizes[0];
  const uint columns = sizes[1];
  for (size_t run = begin; run < end; run += block) {
    const uint first = uint(run) * N;
    const uint last = run + block < end ? first + block * N : uint(end) * N;
    const uint width = (last < columns ? last : columns) - first;
    const uint whole = width / N;
    float sum[M][block * N] = {};
    typename S::template constants<N> shared[block];
    uint group = ~0u;
    for (uint row = 0; row < rows; ++row) {
      const uint next = group_at<F>(source, row);
      if (next != group) {
        for (uint i = 0; i < whole; ++i) {
          load_constants<F, N>(source, next, first + i * N, shared[i]);
        }
        group = next;
      }
      // clang would otherwise go through sixteen runs side by side, with gathers: ten times slower.
#pragma clang loop vectorize(disable)
      for (uint run_of_block = 0; run_of_block < whole; ++run_of_block) {
        const uint at = run_of_block * N;
        float w[N];
        float q[N];
        codes<F, N, 1>(source, shared[run_of_block], row, first + at, q);
        scaled<N>(shared[run_of_block], q, w);
        for (uint m = 0; m < M; ++m) {
          const float factor = x[size_t(m) * rows + row];
          for (uint i = 0; i < N; ++i) sum[m][at + i] += w[i] * factor;
        }
      }
      for (uint at = whole * N; at < width; ++at) {
        float w;
        decode<F, 1>(source, row, first + at, &w);
        for (uint m = 0; m < M; ++m) sum[m][at] += w * x[size_t(m) * rows + row];
      }
    }
    for (uint m = 0; m < M; ++m) {
      memcpy(out + size_t(m) * columns + first, sum[m], width * sizeof(float));
    }
  }
}

// x has 1, 4 or 8 vectors; the caller pads it with zeros.
template <typename F, typename S>
static inline void product_transposed(const S& source, const float* x, float* out,
                                      const uint* sizes, size_t begin, size_t end) {
  switch (sizes[vectors_at]) {
    case 1:
      return transposed_of<1, F>(source, x, out, sizes, begin, end);
    case 4:
      return transposed_of<4, F>(source, x, out, sizes, begin, end);
    case 8:
      return transposed_of<8, F>(source, x, out, sizes, begin, end);
  }
}
