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
#include "../part.metal"
#include "../scales.metal"

template <typename S>
struct awq_loader {
  enum { layout_kn = 1, rows_per_thread = 4, qvm_rows = 16, qvm_columns = 8 };
  template <uint N, typename V = float>
  using group_params = kn_group_params<N, V>;
  part<uint> qweight;
  part<uint> qzeros;
  part<S> scales;
  uint columns;
  grouping groups;
};

template <typename F, typename S>
inline awq_loader<S> awq(part<int> qweight, part<int> qzeros, part<S> scales,
                         thread const LaunchParams& p) {
  awq_loader<S> loader = {words_of(qweight), words_of(qzeros), scales, p.columns, grouping_of(p)};
  return loader;
}

struct awq4 {
  enum { bits = 4, scale_block = 8, has_g_idx = 0 };

  static inline uint shift(uint column) { return (column / 2 + column % 2 * 4) * 4; }
};

template <typename F, typename S>
struct scale_traits<F, awq_loader<S>> {
  typedef S type;
};

// Where codes of `row` from `column` on are.
template <typename F, typename S>
inline device const uint* codes_at(thread const awq_loader<S>& loader, uint row, uint column) {
  return address(loader.qweight, (row * loader.columns + column) / 8);
}

// Whether R rows, from a multiple of R on, always lie in one group.
template <typename F, uint R, typename S>
inline bool share_group(thread const awq_loader<S>& loader) {
  return loader.groups.size % R == 0;
}

template <typename F, typename S>
inline uint group_at(thread const awq_loader<S>& loader, uint row) {
  return group_of(row, loader.groups);
}

template <typename F, uint N, typename V, typename S>
inline void load_group_params(thread const awq_loader<S>& loader, uint group, uint column,
                              thread kn_group_params<N, V>& shared) {
  const uint count = N < 8 ? N : 8;
  uint at = group * loader.columns + column;
  load<N, N % 8 == 0>(address(loader.scales, at), shared.scale);
  for (uint i = 0; i < N; i += count) {
    uint z[count];
    split<count, F>(*address(loader.qzeros, (at + i) / 8), 15, N < 8 ? column % 8 : 0, z);
    for (uint k = 0; k < count; ++k) set_zero_point(z[k], shared.zero[i + k]);
  }
}

// q[0..N) = q - z of `row` from `column` on. The next R - 1 rows follow.
template <typename F, uint N, uint R, typename V, typename S>
inline void group_codes(thread const awq_loader<S>& loader,
                        thread const kn_group_params<N, V>& shared, uint row, uint column,
                        thread V* q) {
  const uint count = N < 8 ? N : 8;
  const uint pitch = loader.columns / 8;
  uint at = row * pitch + column / 8;
#pragma unroll
  for (uint r = 0; r < R; ++r) {
    device const uint* words = address(loader.qweight, at);
    for (uint i = 0; i < N; i += count) {
      uint word = N < 8 ? words[0] >> F::shift(column % 8) : words[i / 8];
      split_subtract_zero<count, F>(word, 15, 0, shared.zero + i, q + i);
    }
    at += pitch;
    q += N;
  }
}

#include "../layout_kn.metal"
