// compressed-tensors "pack-quantized": 2, 3, 4 or 8-bit codes, a scale per group of inputs
//
//   weight_packed      int32 [out, ceil(in*bits/32)]       codes packed along the inputs
//   weight_scale       S     [out, groups]
//   weight_zero_point  int32 [ceil(out*bits/32), groups]   zero points along the outputs; optional
//   weight_g_idx       int32 [in]                          group of each input; for act-order
//
// With 4 bits, word c of a row holds inputs 8*c .. 8*c + 7:
//
//   bits   31..28  27..24  23..20  19..16  15..12  11..8  7..4  3..0
//   input    7       6       5       4       3       2      1     0
//
// Codes and zero points are signed, stored plus 2^(bits - 1). An absent zero point is 0, as if
// stored as 2^(bits - 1).
//
//   w[o, i] = (q - z)*s

#include "../groups.metal"
#include "../part.metal"
#include "../scales.metal"
#include "../bitpack.metal"

struct no_group_params;  // defined in layout_nk.metal

template <typename S>
struct compressed_tensors_loader {
  enum { layout_kn = 0, rows_per_thread = 4, qvm_rows = 8, qvm_columns = 8 };
  template <uint N>
  using group_params = no_group_params;
  part<uint> codes;
  part<S> scales;
  part<uint> zeros;
  part<uint> g_idx;
  grouping groups;
  uint has_zeros, groups_per_row;
  uint pitch;  // from a row of words to the next
};

template <typename F, typename S>
inline compressed_tensors_loader<S> compressed_tensors(part<int> codes, part<S> scales,
                                                       part<int> zeros, part<int> g_idx,
                                                       thread const LaunchParams& p) {
  compressed_tensors_loader<S> loader = {
      words_of(codes),  scales,
      words_of(zeros),  words_of(g_idx),
      grouping_of(p),   p.has_zeros,
      p.groups_per_row, uint((size_t(p.columns) * F::bits + 31) / 32)};
  return loader;
}

// has_g_idx: each input's group is looked up in g_idx (act-order). Without it, no group ends within
// 32 inputs from a multiple of 32.
struct ct2 {
  enum { bits = 2, scale_block = 32, has_g_idx = 0 };
};
struct ct2_g_idx {
  enum { bits = 2, scale_block = 8, has_g_idx = 1 };
};
struct ct3 {
  enum { bits = 3, scale_block = 32, has_g_idx = 0 };
};
struct ct3_g_idx {
  enum { bits = 3, scale_block = 8, has_g_idx = 1 };
};
struct ct4 {
  enum { bits = 4, scale_block = 32, has_g_idx = 0 };
};
struct ct4_g_idx {
  enum { bits = 4, scale_block = 8, has_g_idx = 1 };
};
struct ct8 {
  enum { bits = 8, scale_block = 32, has_g_idx = 0 };
};
struct ct8_g_idx {
  enum { bits = 8, scale_block = 8, has_g_idx = 1 };
};

template <typename F, typename S>
struct scale_traits<F, compressed_tensors_loader<S>> {
  typedef S type;
};

// Where 32 codes of `row` from `column` on are.
template <typename F, typename S>
inline device const uint* codes_at(thread const compressed_tensors_loader<S>& loader, uint row,
                                   uint column) {
  return address(loader.codes, row * loader.pitch + column / 32 * F::bits);
}

// The word bits with the zero points of a group in R rows, of which `last` is the last one; zero_point
// extracts row r's. has_zeros is 0 or 1 and enters by multiplication: for a branch, compilers duplicate
// the code around it.
template <typename F, uint R, typename S>
inline uint zero_bits(thread const compressed_tensors_loader<S>& loader, uint group, uint row,
                      uint last) {
  const uint bits = F::bits;
  uint has = loader.has_zeros;
  uint pitch = has * loader.groups_per_row;
  uint bit = row % 32 * bits;
  uint at = (row / 32 * bits + bit / 32) * pitch + has * group;
  uint result = *address(loader.zeros, at) >> bit % 32;
  if (32 % (R * bits) != 0) {
    uint next = (last % 32 * bits + bits - 1) / 32 - bit / 32;
    result |= *address(loader.zeros, at + next * pitch) << (32 - bit % 32) % 32;
  }
  return result;
}

template <typename F>
inline uint zero_point(uint bits, uint r, uint has) {
  uint stored = bits >> (r * F::bits) & ((1u << F::bits) - 1);
  return has != 0 ? stored : 1u << (F::bits - 1);
}

// q[0..N) = codes less zero points of `row` from `column` on, of inputs of one group. Returns their
// scale. `row` is the r-th that `zeros` has zero points of. N divides `column` and F::scale_block.
template <typename F, uint N, typename V, typename S>
inline float codes_of_row(thread const compressed_tensors_loader<S>& loader, uint row, uint column,
                          uint group, uint zeros, uint r, thread V* q) {
  V zero[N];
  for (uint i = 0; i < N; ++i) set_zero_point(zero_point<F>(zeros, r, loader.has_zeros), zero[i]);
  unpack_subtract_zero<F::bits, N>(loader.codes.whole, loader.codes.first + row * loader.pitch,
                                   column, zero, q);
  return float(*address(loader.scales, row * loader.groups_per_row + group));
}

// No group ends within 32 inputs, so parts of them look up one group.
template <typename S>
inline uint group_of_inputs(thread const compressed_tensors_loader<S>& loader, uint column) {
  return group_of(column / 32 * 32, loader.groups);
}

// How inputs may have their groups. codes_of_rows gives the codes of R rows, `stride` apart in q, and
// their scales. R divides `row`, and a word holds R zero points.

struct groups_in_order {
  template <typename F, uint N, uint R, typename V, typename S>
  static inline void codes_of_rows(thread const compressed_tensors_loader<S>& loader, uint row,
                                   uint column, uint stride, thread V* q, thread float* scale) {
    static_assert(!F::has_g_idx, "no group is looked up");
    uint group = group_of_inputs(loader, column);
    uint zeros = zero_bits<F, R>(loader, group, row, row + R - 1);
#pragma unroll
    for (uint r = 0; r < R; ++r) {
      scale[r] = codes_of_row<F, N>(loader, row + r, column, group, zeros, r, q + r * stride);
    }
  }
};

// Each input's group is looked up in g_idx (act-order). Inputs have scales of their own: q is scaled,
// and the scale is 1.
struct groups_looked_up {
  template <typename F, uint N, uint R, typename V, typename S>
  static inline void codes_of_rows(thread const compressed_tensors_loader<S>& loader, uint row,
                                   uint column, uint stride, thread V* q, thread float* scale) {
    static_assert(F::has_g_idx, "each input's group is looked up");
    uint group[N], zeros[N];
    load_words<N>(address(loader.g_idx, column), group);
    for (uint i = 0; i < N; ++i) zeros[i] = zero_bits<F, R>(loader, group[i], row, row + R - 1);
#pragma unroll
    for (uint r = 0; r < R; ++r) {
      V zero[N];
      for (uint i = 0; i < N; ++i) {
        set_zero_point(zero_point<F>(zeros[i], r, loader.has_zeros), zero[i]);
      }
      thread V* w = q + r * stride;
      unpack_subtract_zero<F::bits, N>(
          loader.codes.whole, loader.codes.first + (row + r) * loader.pitch, column, zero, w);
      uint scales = (row + r) * loader.groups_per_row;
      for (uint i = 0; i < N; ++i)
        w[i] = w[i] * V(float(*address(loader.scales, scales + group[i])));
      scale[r] = 1.0f;
    }
  }
};

// How the inputs of a format have their groups.
template <typename F>
struct inputs_of {
  typedef groups_in_order type;
};
template <>
struct inputs_of<ct2_g_idx> {
  typedef groups_looked_up type;
};
template <>
struct inputs_of<ct3_g_idx> {
  typedef groups_looked_up type;
};
template <>
struct inputs_of<ct4_g_idx> {
  typedef groups_looked_up type;
};
template <>
struct inputs_of<ct8_g_idx> {
  typedef groups_looked_up type;
};

// q[0..N) = codes less zero points of `row` from `column` on. Returns their scale. N divides
// `column` and F::scale_block.
template <typename F, uint N, typename V, typename S>
inline float row_codes(thread const compressed_tensors_loader<S>& loader, uint row, uint column,
                       thread V* q) {
  float scale[1];
  inputs_of<F>::type::template codes_of_rows<F, N, 1>(loader, row, column, N, q, scale);
  return scale[0];
}

// What neighbouring rows share, for qmv.metal.
struct shared_group {
  uint group, zeros;
};

template <typename F, uint R, typename S>
inline shared_group share_rows(thread const compressed_tensors_loader<S>& loader, uint row,
                               uint last, uint column) {
  static_assert(!F::has_g_idx, "no group is looked up");
  uint group = group_of_inputs(loader, column);
  shared_group shared = {group, zero_bits<F, R>(loader, group, row, min(row + R - 1, last))};
  return shared;
}

template <typename F, uint N, typename S>
inline scaling shared_codes(thread const compressed_tensors_loader<S>& loader,
                            thread const shared_group& shared, uint row, uint r, uint last,
                            uint column, thread float* q) {
  return scaled_by(
      codes_of_row<F, N>(loader, min(row + r, last), column, shared.group, shared.zeros, r, q));
}

// As in layout_nk.metal, but R rows share the lookup of groups and the words of zero points. R
// divides `row`.
template <typename F, uint N, uint R, typename S>
inline void group_codes(thread const compressed_tensors_loader<S>& loader,
                        thread const no_group_params&, uint row, uint column, thread float* q) {
  const uint block = N < F::scale_block ? N : F::scale_block;
  const uint rows = R < 4 ? R : 4;  // a word holds four zero points of 8 bits
#pragma unroll
  for (uint r = 0; r < R; r += rows) {
#pragma unroll
    for (uint i = 0; i < N; i += block) {
      thread float* w = q + r * N + i;
      float scale[rows];
      inputs_of<F>::type::template codes_of_rows<F, block, rows>(loader, row + r, column + i, N, w,
                                                                 scale);
      for (uint k = 0; k < rows; ++k) scale_codes<F, block>(scale[k], w + k * N);
    }
  }
}

#include "../layout_nk.metal"
