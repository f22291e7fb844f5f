// GPTQ: 2, 3, 4 or 8-bit codes, a scale and a zero point per group of inputs
//
//   qweight  int32 [in*bits/32, out]       a stream of codes along the inputs
//   qzeros   int32 [groups, out*bits/32]   a stream of zero points along the outputs
//   scales   S     [groups, out]
//   g_idx    int32 [in]                    group of each input
//
// With 4 bits, word c of a column holds inputs 8*c .. 8*c + 7:
//
//   bits   31..28  27..24  23..20  19..16  15..12  11..8  7..4  3..0
//   input    7       6       5       4       3       2      1     0
//
// Zero points come in three ways, told by two numbers in sizes:
//
//   v2        z as stored           zero_word 0           zero_field 0
//   v1        one less, by words    zero_word 0x11111111  zero_field 0   (3 bits: 1, per field)
//   v1-field  one less, by fields   zero_word 0           zero_field 1
//
//   w[i, o] = (q - z)*s

#include "../groups.metal"
#include "../scales.metal"
#include "../bitpack.metal"
#include "../strips.metal"

template <typename S>
struct gptq_loader {
  // qvm_rows: 32 codes fill whole words, of 3 bits too.
  enum { rows_per_thread = 8, qvm_rows = 32, qvm_columns = 4, layout_kn = 1 };
  template <uint N, typename V = float>
  using group_params = group_params_of<N, V>;
  template <typename F, uint ROWS, uint COLUMNS>
  struct window {
    enum { count = ROWS * F::bits / 32, bytes = COLUMNS * 4, align = 16 };
  };
  template <typename F, uint R>
  using pairs = word_pair_stride<F::bits, R>;
  device const uint* qweight;
  device const uint* qzeros;
  device const S* scales;
  device const int* g_idx;
  uint columns;
  grouping groups;
  uint zero_word, zero_field;
  uint first_row, first_column;  // of those in `qweight`
  size_t pitch;                  // from a row of words to the next
};

template <typename F, typename S>
inline gptq_loader<S> gptq(device const int* qweight, device const int* qzeros,
                           device const S* scales, device const int* g_idx,
                           device const uint* sizes) {
  gptq_loader<S> loader = {(device const uint*)qweight,
                           (device const uint*)qzeros,
                           scales,
                           g_idx,
                           sizes[1],
                           grouping_of(sizes + layout_at),
                           sizes[layout_at + 3],
                           sizes[layout_at + 4],
                           0,
                           0,
                           sizes[1]};
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

// Whether R rows from a multiple of R on are of one group.
template <typename F, uint R, typename S>
inline bool share_group(thread const gptq_loader<S>& loader) {
  return !F::has_g_idx && loader.groups.size % R == 0;
}

template <typename F, typename S>
inline uint group_at(thread const gptq_loader<S>& loader, uint row) {
  return F::has_g_idx ? uint(loader.g_idx[row]) : group_of(row, loader.groups);
}

template <typename F, uint N, typename V, typename S>
inline void load_group_params(thread const gptq_loader<S>& loader, uint group, uint column,
                              thread group_params_of<N, V>& shared) {
  const uint mask = (1u << F::bits) - 1;
  size_t columns = loader.columns;
  uint zero_word = F::bits == 3 ? 0 : loader.zero_word;
  uint zero_wrap = F::bits == 3 ? loader.zero_word : 0;
  uint z[N];
  unpack<F::bits, N>(loader.qzeros + group * (columns * F::bits / 32), column, zero_word, z);
  for (uint i = 0; i < N; ++i) {
    set_zero_point(((z[i] + zero_wrap) & mask) + loader.zero_field, shared.zero[i]);
  }
  // With 8 bits, outputs come in fours, and a row of scales need not start at 16 bytes.
  load<N, N % 8 == 0 && F::bits != 8>(loader.scales + group * columns + column, shared.scale);
}

// q[0..N) = q - z of `row`, a multiple of R, from `column` on; then of R - 1 rows more.
template <typename F, uint N, uint R, typename V, typename S>
inline void codes(thread const gptq_loader<S>& loader, thread const group_params_of<N, V>& shared,
                  uint row, uint column, thread V* q) {
  const uint bits = F::bits;
  const uint mask = (1u << bits) - 1;
  size_t bit = size_t(row - loader.first_row) * bits;
  uint start = R * bits % 32 == 0 ? 0 : uint(bit % 32);
  device const uint* words = loader.qweight + bit / 32 * loader.pitch;
  words += column - loader.first_column;
#pragma unroll
  for (uint r = 0; r < R; ++r) {
    uint shift = (start + r * bits) % 32;
    device const uint* from = words + (start + r * bits) / 32 * loader.pitch;
    uint low[N];
    load_words<N>(from, low);
    if (32 % bits != 0 && shift + bits > 32) {
      uint high[N];
      load_words<N>(from + loader.pitch, high);
      for (uint i = 0; i < N; ++i) low[i] = low[i] >> shift | high[i] << (32 - shift);
      shift = 0;
    }
    fields_subtract_zero<N>(low, shift, mask, shared.zero, q);
    q += N;
  }
}

template <typename F, uint N, uint R, typename V, typename S>
inline void paired(thread const gptq_loader<S>& loader, thread const group_params_of<N, V>& shared,
                   uint row, uint column, thread uint* q) {
  const uint rows = 32 / F::bits;  // of a word
  if (word_pair_stride<F::bits, R>::apart == 1) {
    V less[R * N];
    codes<F, N, R>(loader, shared, row, column, less);
    half2_rows(less, N, q);
    return;
  }
  device const uint* words = loader.qweight + size_t(row / rows) * loader.pitch + column;
#pragma unroll
  for (uint r = 0; r < R; r += rows) {
    uint word[N];
    load_words<N>(words, word);
#pragma unroll
    for (uint i = 0; i < N; ++i) {
      half2_fields(F(), word[i], shared.zero[i], N, q + r / 2 * N + i);
    }
    words += loader.pitch;
  }
}

template <typename F, typename S>
inline void prefetch_codes(thread const gptq_loader<S>& loader, uint row, uint column) {
  prefetch(loader.qweight + size_t(row) * F::bits / 32 * loader.pitch + column);
}

template <typename F, typename S>
inline strips strips_of(thread const gptq_loader<S>& loader, uint row, uint column) {
  device const uint* first = loader.qweight + size_t(row) * F::bits / 32 * loader.pitch + column;
  strips result = {(device const uint8_t*)first, loader.pitch * 4};
  return result;
}

template <typename F, typename S>
inline gptq_loader<S> placed(thread const gptq_loader<S>& loader, strips at, uint row,
                             uint column) {
  gptq_loader<S> result = loader;
  result.qweight = (device const uint*)at.first;
  result.pitch = at.pitch / 4;
  result.first_row = row;
  result.first_column = column;
  return result;
}

#include "../layout_kn.metal"
