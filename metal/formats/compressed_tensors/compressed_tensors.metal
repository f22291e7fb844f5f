// compressed-tensors "pack-quantized": 2, 3, 4 or 8-bit codes, a scale per group of inputs
//
//   weight_packed      int32 [out, ceil(in*bits/32)]       a stream of codes along the inputs
//   weight_scale       S     [out, groups]
//   weight_zero_point  int32 [ceil(out*bits/32), groups]   a stream along the outputs, or absent
//   weight_g_idx       int32 [in]                          group of each input, with act-order
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
#include "../scales.metal"
#include "../bitpack.metal"
#include "../strips.metal"

struct no_group_params;  // layout_nk.metal has it

template <typename S>
struct compressed_tensors_loader {
  enum { rows_per_thread = 4, qvm_rows = 8, qvm_columns = 8, layout_kn = 0 };
  template <uint N>
  using group_params = no_group_params;
  template <typename F, uint R>
  using pairs = word_pair_stride<F::bits, R>;
  template <typename F, uint ROWS, uint COLUMNS>
  struct window {
    enum { count = ROWS, bytes = COLUMNS * F::bits / 8, align = 4 };
  };
  device const uint* codes;
  device const S* scales;
  device const uint* zeros;
  device const int* g_idx;
  grouping groups;
  uint has_zeros, groups_per_row;
  uint first_row, first_column;  // of those in `codes`
  size_t pitch;                  // from a row of words to the next
};

template <typename F, typename S>
inline compressed_tensors_loader<S> compressed_tensors(device const int* codes,
                                                       device const S* scales,
                                                       device const int* zeros,
                                                       device const int* g_idx,
                                                       device const uint* sizes) {
  compressed_tensors_loader<S> loader = {(device const uint*)codes,
                                         scales,
                                         (device const uint*)zeros,
                                         g_idx,
                                         grouping_of(sizes + layout_at),
                                         sizes[layout_at + 3],
                                         sizes[layout_at + 4],
                                         0,
                                         0,
                                         (size_t(sizes[1]) * F::bits + 31) / 32};
  return loader;
}

// has_g_idx: each input's group is looked up in g_idx (act-order). Else no group ends inside a run
// of 32.
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

template <typename S, bool HAS_G_IDX>
struct compressed_tensors_scale {
  typedef S type;
};
template <typename S>
struct compressed_tensors_scale<S, true> {
  typedef float type;
};
template <typename F, typename S>
struct scale_traits<F, compressed_tensors_loader<S>> {
  typedef typename compressed_tensors_scale<S, F::has_g_idx>::type type;
};

template <typename F, typename S>
inline device const uint* row_words(thread const compressed_tensors_loader<S>& loader, uint row) {
  return loader.codes + (row - loader.first_row) * loader.pitch;
}

// The zero points of a group in R rows, and which is row r's. has_zeros is 0 or 1: without a
// branch, which compilers make two programs of.
template <typename F, uint R, typename S>
inline uint zero_bits(thread const compressed_tensors_loader<S>& loader, uint group, uint row) {
  uint has = loader.has_zeros;
  return read_bits_at<F::bits, R>(loader.zeros + has * group, has * loader.groups_per_row, row);
}

template <typename F>
inline uint zero_point(uint bits, uint r, uint has) {
  uint mask = has * ((1u << F::bits) - 1);
  return (bits >> (r * F::bits) & mask) | (1 - has) << (F::bits - 1);
}

// q[0..N) = codes of `row` from `column` on, a multiple of N, and scale[0] theirs; then of R - 1
// rows more, `pitch` apart in q. R divides `row`, N F::scale_block, and a word holds R zero points.
template <typename F, uint N, uint R, typename V, typename S>
inline void codes_of_rows(thread const compressed_tensors_loader<S>& loader, uint row, uint column,
                          uint pitch, thread V* q, thread float* scale) {
  const uint count = F::has_g_idx ? N : 1;
  uint group[count], zeros[count];
  if (F::has_g_idx) {
    load_words<count>((device const uint*)loader.g_idx + column, group);
  } else {
    group[0] = group_of(column, loader.groups);
  }
  for (uint i = 0; i < count; ++i) zeros[i] = zero_bits<F, R>(loader, group[i], row);
  device const S* scales = loader.scales + size_t(row) * loader.groups_per_row;
#pragma unroll
  for (uint r = 0; r < R; ++r) {
    V zero[N];
    for (uint i = 0; i < N; ++i) {
      set_zero_point(zero_point<F>(zeros[i % count], r, loader.has_zeros), zero[i]);
    }
    unpack_subtract_zero<F::bits, N>(row_words<F>(loader, row + r), column - loader.first_column,
                                     zero, q);
    scale[r] = F::has_g_idx ? 1.0f : float(scales[group[0]]);
    if (F::has_g_idx) {
      for (uint i = 0; i < N; ++i) q[i] = q[i] * V(float(scales[group[i % count]]));
    }
    scales += loader.groups_per_row;
    q += pitch;
  }
}

// q[0..N) = codes of `row` from `column` on, a multiple of N, and their scale; N divides
// F::scale_block.
template <typename F, uint N, typename V, typename S>
inline float codes(thread const compressed_tensors_loader<S>& loader, uint row, uint column,
                   thread V* q) {
  float scale[1];
  codes_of_rows<F, N, 1>(loader, row, column, N, q, scale);
  return scale[0];
}

// As layout_nk.metal has it, but rows share groups and zero points. R divides `row`.
template <typename F, uint N, uint R, typename S>
inline void codes(thread const compressed_tensors_loader<S>& loader, thread const no_group_params&,
                  uint row, uint column, thread float* q) {
  const uint run = N < F::scale_block ? N : F::scale_block;
  const uint rows = R < 4 ? R : 4;  // a word holds four zero points of 8 bits
#pragma unroll
  for (uint r = 0; r < R; r += rows) {
#pragma unroll
    for (uint i = 0; i < N; i += run) {
      thread float* w = q + r * N + i;
      float scale[rows];
      codes_of_rows<F, run, rows>(loader, row + r, column + i, N, w, scale);
      for (uint k = 0; k < rows; ++k) scale_codes<F, run>(scaled_by(scale[k]), w + k * N);
    }
  }
}

template <typename F, typename S>
inline void prefetch_codes(thread const compressed_tensors_loader<S>& loader, uint row,
                           uint column) {
  prefetch(row_words<F>(loader, row) + size_t(column) * F::bits / 32);
}

template <typename F, typename S>
inline strips strips_of(thread const compressed_tensors_loader<S>& loader, uint row, uint column) {
  device const uint* first = row_words<F>(loader, row) + size_t(column) * F::bits / 32;
  strips result = {(device const uint8_t*)first, loader.pitch * 4};
  return result;
}

template <typename F, typename S>
inline compressed_tensors_loader<S> placed(thread const compressed_tensors_loader<S>& loader,
                                           strips at, uint row, uint column) {
  compressed_tensors_loader<S> result = loader;
  result.codes = (device const uint*)at.first;
  result.pitch = at.pitch / 4;
  result.first_row = row;
  result.first_column = column;
  return result;
}

#include "../layout_nk.metal"

// As layout_nk.metal has it, of whole words where there are some.
template <typename F, uint N, uint R, typename S>
inline void half2_codes(thread const compressed_tensors_loader<S>& loader, uint row, uint column,
                        thread scaling* by, thread uint* q) {
  const uint words = (R * F::bits + 31) / 32;
  uint group = group_of(column, loader.groups);
#pragma unroll
  for (uint i = 0; i < N; ++i) {
    float16_t less[word_pair_stride<F::bits, R>::apart == 1 ? R : 1];
    if (word_pair_stride<F::bits, R>::apart == 1) {
      by[i] = scaled_by(codes<F, R>(loader, row + i, column, less));
      half2_neighbours(less, N, q + i);
      continue;
    }
    float16_t zero;
    set_zero_point(zero_point<F>(zero_bits<F, 1>(loader, group, row + i), 0, loader.has_zeros),
                   zero);
    uint word[words];
    load_words<words>(row_words<F>(loader, row + i) + column * F::bits / 32, word);
#pragma unroll
    for (uint k = 0; k < words; ++k) {
      half2_fields(F(), word[k], zero, N, q + k * (16 / F::bits) * N + i);
    }
    by[i] = scaled_by(float(loader.scales[size_t(row + i) * loader.groups_per_row + group]));
  }
}
