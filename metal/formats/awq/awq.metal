// AWQ ("gemm" layout): 4-bit codes, a scale and a zero point per group of inputs
//
//   qweight  int32 [in, out/8]       8 codes per word, along the outputs
//   qzeros   int32 [groups, out/8]   8 zero points per word, same order
//   scales   S     [groups, out]
//
// The column that each nibble of word c holds, less 8*c:
//
//   bits   31..28  27..24  23..20  19..16  15..12  11..8  7..4  3..0
//   column   7       5       3       1       6       4      2     0
//
// Input i is in group i / group_size.
//
//   w[i, o] = (q - z)*s

#include "../groups.metal"

template <typename S>
struct awq_source {
  device const uint* qweight;
  device const uint* qzeros;
  device const S* scales;
  uint columns, group_size;
};

template <typename S>
inline awq_source<S> awq(device const int* qweight, device const int* qzeros,
                         device const S* scales, device const uint* sizes) {
  awq_source<S> source = {(device const uint*)qweight, (device const uint*)qzeros, scales, sizes[1],
                          sizes[layout_at]};
  return source;
}

struct awq4 {
  enum { bits = 4 };

  static inline uint shift(uint column) { return (column / 2 + column % 2 * 4) * 4; }
};

template <typename F, uint N, typename S>
inline void decode(thread const awq_source<S>& source, uint row, uint column, thread float* w) {
  const uint run = N < 8 ? N : 8;
  size_t group = group_of(row, source.group_size);
  size_t words = source.columns / 8;
  device const S* scales = source.scales + group * source.columns + column;
  for (uint i = 0; i < N; i += run) {
    uint word = (column + i) / 8;
    uint first = N < 8 ? column % 8 : 0;
    uint q[run];
    uint z[run];
    split<run, F>(source.qweight[row * words + word], 15, first, q);
    split<run, F>(source.qzeros[group * words + word], 15, first, z);
    float s[run];
    load<run, true>(scales + i, s);
    for (uint k = 0; k < run; ++k) w[i + k] = float(int(q[k]) - int(z[k])) * s[k];
  }
}
