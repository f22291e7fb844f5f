// compressed-tensors "pack-quantized": 2, 3, 4 or 8-bit codes, a scale per group of inputs
//
//   weight_packed      int32 [out, ceil(in*bits/32)]       a stream of codes along the inputs
//   weight_scale       S     [out, groups]
//   weight_zero_point  int32 [ceil(out*bits/32), groups]   a stream along the outputs, or absent
//   weight_g_idx       int32 [in]                          group of each input, or absent
//
// With 4 bits, word c of a row holds inputs 8*c .. 8*c + 7:
//
//   bits   31..28  27..24  23..20  19..16  15..12  11..8  7..4  3..0
//   input    7       6       5       4       3       2      1     0
//
// Codes and zero points are signed, stored plus 2^(bits - 1). An absent zero point is 0, and is
// so stored as 2^(bits - 1).
//
//   w[o, i] = (q - z)*s

#include "../groups.metal"
#include "../stream.metal"

struct nothing;

template <typename S>
struct packed_source {
  enum { tile_rows = 1 };
  template <uint N>
  using constants = nothing;
  device const uint* codes;
  device const S* scales;
  device const uint* zeros;
  device const int* g_idx;
  uint columns, group_size, act_order, has_zeros, groups;
};

template <typename S>
inline packed_source<S> packed(device const int* codes, device const S* scales,
                               device const int* zeros, device const int* g_idx,
                               device const uint* sizes) {
  packed_source<S> source = {(device const uint*)codes,
                             scales,
                             (device const uint*)zeros,
                             g_idx,
                             sizes[1],
                             sizes[layout_at],
                             sizes[layout_at + 1],
                             sizes[layout_at + 2],
                             sizes[layout_at + 3]};
  return source;
}

struct packed2 {
  enum { bits = 2, run = 32 };
};
struct packed3 {
  enum { bits = 3, run = 32 };
};
struct packed4 {
  enum { bits = 4, run = 32 };
};
struct packed8 {
  enum { bits = 8, run = 32 };
};

// w[0..N) = codes that share a group, unpacked
template <typename F, uint N, typename S>
inline void scale_codes(thread const packed_source<S>& source, uint row, uint group,
                        thread const uint* q, thread float* w) {
  float scale = float(source.scales[size_t(row) * source.groups + group]);
  int zero = 1 << (F::bits - 1);
  if (source.has_zeros) zero = int(code_at<F::bits>(source.zeros + group, source.groups, row));
  for (uint i = 0; i < N; ++i) w[i] = float(int(q[i]) - zero) * scale;
}

template <typename F, uint N, typename S>
inline void decode(thread const packed_source<S>& source, uint row, uint column, thread float* w) {
  size_t words = (size_t(source.columns) * F::bits + 31) / 32;
  uint q[N];
  unpack<F::bits, N>(source.codes + row * words, column, 0, q);
  if (!source.act_order && source.group_size % N == 0) {
    scale_codes<F, N>(source, row, group_of(column, source.group_size), q, w);
  } else {
    for (uint i = 0; i < N; ++i) {
      uint at = column + i;
      uint group = source.act_order ? uint(source.g_idx[at]) : group_of(at, source.group_size);
      scale_codes<F, 1>(source, row, group, q + i, w + i);
    }
  }
}

#include "../by_outputs.metal"
