// GPTQ: 2, 3, 4 or 8-bit codes, a scale and a zero point per group of inputs
//
//   qweight  int32 [in*bits/32, out]       codes packed along the inputs
//   qzeros   int32 [groups, out*bits/32]   zero points packed along the outputs
//   scales   S     [groups, out]
//   g_idx    int32 [in]                    group of each input
//
// With 4 bits, word c of a column holds inputs 8*c .. 8*c + 7:
//
//   bits   31..28  27..24  23..20  19..16  15..12  11..8  7..4  3..0
//   input    7       6       5       4       3       2      1     0
//
// A zero point z is stored in one of three ways, which two launch parameters tell apart. zero_word
// is added to stored words, modulo 2^32; zero_field is added to each field after it is extracted:
//
//   v2        stored as z        zero_word 0           zero_field 0
//   v1        stored as z - 1    zero_word 0x11111111  zero_field 0
//   v1-field  stored as z - 1    zero_word 0           zero_field 1
//
// With 3 bits, v1 has zero_word 1, which is added to each field modulo 8.
//
//   w[i, o] = (q - z)*s

#include "../groups.metal"
#include "../part.metal"
#include "../scales.metal"
#include "../bitpack.metal"

template <typename S>
struct gptq_loader {
  // qvm_rows: 32 codes fill whole words for every number of bits, 3 included.
  enum { layout_kn = 1, rows_per_thread = 8, qvm_rows = 32, qvm_columns = 4 };
  template <uint N, typename V = float>
  using group_params = kn_group_params<N, V>;
  part<uint> qweight;
  part<uint> qzeros;
  part<S> scales;
  part<uint> g_idx;
  uint columns;
  grouping groups;
  uint zero_word, zero_field;
};

template <typename F, typename S>
inline gptq_loader<S> gptq(part<int> qweight, part<int> qzeros, part<S> scales, part<int> g_idx,
                           thread const LaunchParams& p) {
  gptq_loader<S> loader = {words_of(qweight), words_of(qzeros), scales,      words_of(g_idx),
                           p.columns,         grouping_of(p),   p.zero_word, p.zero_field};
  return loader;
}

// has_g_idx: each input's group is looked up in g_idx (act-order).
struct gptq2 {
  enum { bits = 2, scale_block = 8, has_g_idx = 0 };
};
struct gptq2_g_idx {
  enum { bits = 2, scale_block = 8, has_g_idx = 1 };
};
struct gptq3 {
  enum { bits = 3, scale_block = 8, has_g_idx = 0 };
};
struct gptq3_g_idx {
  enum { bits = 3, scale_block = 8, has_g_idx = 1 };
};
struct gptq4 {
  enum { bits = 4, scale_block = 8, has_g_idx = 0 };
};
struct gptq4_g_idx {
  enum { bits = 4, scale_block = 8, has_g_idx = 1 };
};
struct gptq8 {
  enum { bits = 8, scale_block = 8, has_g_idx = 0 };
};
struct gptq8_g_idx {
  enum { bits = 8, scale_block = 8, has_g_idx = 1 };
};

template <typename F, typename S>
struct scale_traits<F, gptq_loader<S>> {
  typedef S type;
};

// Where codes of `row` from `column` on are.
template <typename F, typename S>
inline device const uint* codes_at(thread const gptq_loader<S>& loader, uint row, uint column) {
  return address(loader.qweight, row * F::bits / 32 * loader.columns + column);
}

// Whether R rows, from a multiple of R on, always lie in one group.
template <typename F, uint R, typename S>
inline bool share_group(thread const gptq_loader<S>& loader) {
  return !F::has_g_idx && loader.groups.size % R == 0;
}

template <typename F, typename S>
inline uint group_at(thread const gptq_loader<S>& loader, uint row) {
  return F::has_g_idx ? *address(loader.g_idx, row) : group_of(row, loader.groups);
}

template <typename F, uint N, typename V, typename S>
inline void load_group_params(thread const gptq_loader<S>& loader, uint group, uint column,
                              thread kn_group_params<N, V>& shared) {
  const uint mask = (1u << F::bits) - 1;
  uint columns = loader.columns;
  uint zero_word = F::bits == 3 ? 0 : loader.zero_word;
  uint zero_wrap = F::bits == 3 ? loader.zero_word : 0;
  uint z[N];
  uint pitch = columns / 32 * F::bits + columns % 32 * F::bits / 32;
  unpack<F::bits, N>(loader.qzeros.whole, loader.qzeros.first + group * pitch, column, zero_word,
                     z);
  for (uint i = 0; i < N; ++i) {
    set_zero_point(((z[i] + zero_wrap) & mask) + loader.zero_field, shared.zero[i]);
  }
  // With 8 bits, `out` is a multiple of 4 only, so a row of scales may start off a 16-byte
  // boundary.
  load<N, N % 8 == 0 && F::bits != 8>(address(loader.scales, group * columns + column),
                                      shared.scale);
}

// q[0..N) = q - z of `row` from `column` on. The next R - 1 rows follow. R divides `row`.
template <typename F, uint N, uint R, typename V, typename S>
inline void group_codes(thread const gptq_loader<S>& loader,
                        thread const kn_group_params<N, V>& shared, uint row, uint column,
                        thread V* q) {
  const uint bits = F::bits;
  const uint mask = (1u << bits) - 1;
  size_t bit = size_t(row) * bits;
  uint start = R * bits % 32 == 0 ? 0 : uint(bit % 32);
  const uint columns = loader.columns;
  uint at = uint(bit / 32) * columns + column;
#pragma unroll
  for (uint r = 0; r < R; ++r) {
    uint shift = (start + r * bits) % 32;
    device const uint* from = address(loader.qweight, at + (start + r * bits) / 32 * columns);
    uint low[N];
    load_words<N>(from, low);
    if (32 % bits != 0 && shift + bits > 32) {
      uint high[N];
      load_words<N>(address(loader.qweight, at + ((start + r * bits) / 32 + 1) * columns), high);
      for (uint i = 0; i < N; ++i) low[i] = low[i] >> shift | high[i] << (32 - shift);
      shift = 0;
    } else if (R * bits % 32 != 0) {
      for (uint i = 0; i < N; ++i) low[i] >>= shift;
      shift = 0;
    }
    fields_subtract_zero<N>(low, shift, mask, shared.zero, q);
    q += N;
  }
}

#include "../layout_kn.metal"
