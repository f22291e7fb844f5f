// out[region] = the weights. A call does rows begin to end - 1 of the region, 32 columns at a time.
// Where the rows of a group share scales, columns are done in blocks, whose scales are loaded once
// a group.

template <typename F, typename T, typename S>
static inline void dequantize(const S& loader, T* __restrict out, const LaunchParams& p,
                              size_t begin, size_t end) {
  const uint N = 32;
  typedef typename S::template group_params<N> group_params;
  const uint block_runs = sizeof(group_params) > 1 ? 64 : 1;

  const uint columns = p.end_column - p.first_column;
  const uint whole = columns / N;
  const uint block = block_runs > 1 ? block_runs : whole + 1;
  group_params shared[block_runs];
  for (uint first = 0; first * N < columns; first += block) {
    const uint last = first + block < whole ? first + block : whole;
    uint group = ~0u;
    for (size_t i = begin; i < end; ++i) {
      const uint row = p.first_row + uint(i);
      const uint next = group_at<F>(loader, row);
      if (next != group) {
        for (uint run = first; run < last; ++run) {
          load_group_params<F, N>(loader, next, p.first_column + run * N, shared[run % block_runs]);
        }
        group = next;
      }
      T* to = out + i * columns;
      for (uint run = first; run < last; ++run) {
        float w[N];
        group_codes<F, N, 1>(loader, shared[run % block_runs], row, p.first_column + run * N, w);
        apply_scale<N>(shared[run % block_runs], w, w);
        store<N>(to + run * N, w);
      }
      if (first + block <= whole) continue;
      for (uint column = whole * N; column < columns; ++column) {
        float w;
        decode<F, 1>(loader, row, p.first_column + column, &w);
        to[column] = T(w);
      }
    }
  }
}
