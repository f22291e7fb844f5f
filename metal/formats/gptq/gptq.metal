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
#include "../stream.metal"

template <typename S>
struct gptq_source {
  enum { tile_rows = 4 };  // rows packed in a word, near each other
  template <uint N>
  using constants = group_constants<N>;
  device const uint* qweight;
  device const uint* qzeros;
  device const S* scales;
  device const int* g_idx;
  uint columns, group_size, act_order, zero_word, zero_field;

  // w[0..8) = the weights of a column in 8 rows of a group, from a multiple of 8 on.
  template <typename F>
  static inline void decode_down(thread const gptq_source& source,
                                 thread const group_constants<1>& shared, uint row, uint column,
                                 thread float* w) {
    uint q[8];
    unpack<F::bits, 8>(source.qweight + column, source.columns, row, 0, q);
    for (uint i = 0; i < 8; ++i) w[i] = (float(int(q[i])) - shared.zero[0]) * shared.scale[0];
  }
};

template <typename S>
inline gptq_source<S> gptq(device const int* qweight, device const int* qzeros,
                           device const S* scales, device const int* g_idx,
                           device const uint* sizes) {
  gptq_source<S> source = {(device const uint*)qweight,
                           (device const uint*)qzeros,
                           scales,
                           g_idx,
                           sizes[1],
                           sizes[layout_at],
                           sizes[layout_at + 1],
                           sizes[layout_at + 2],
                           sizes[layout_at + 3]};
  return source;
}

struct gptq2 {
  enum { bits = 2, run = 8 };
};
struct gptq3 {
  enum { bits = 3, run = 8 };
};
struct gptq4 {
  enum { bits = 4, run = 8 };
};
struct gptq8 {
  enum { bits = 8, run = 8 };
};

template <typename S>
inline uint group_at(thread const gptq_source<S>& source, uint row) {
  return source.act_order ? uint(source.g_idx[row]) : group_of(row, source.group_size);
}

template <typename S>
inline bool in_order(thread const gptq_source<S>& source, uint count) {
  return !source.act_order && source.group_size % count == 0;
}

template <typename S>
inline uint group_end(thread const gptq_source<S>& source, uint row) {
  return (group_of(row, source.group_size) + 1) * source.group_size;
}

template <typename F, uint N, typename S>
inline void load_constants(thread const gptq_source<S>& source, uint group, uint column,
                           thread group_constants<N>& shared) {
  const uint mask = (1u << F::bits) - 1;
  size_t columns = source.columns;
  uint zero_word = F::bits == 3 ? 0 : source.zero_word;
  uint zero_wrap = F::bits == 3 ? source.zero_word : 0;
  uint z[N];
  unpack<F::bits, N>(source.qzeros + group * (columns * F::bits / 32), 1, column, zero_word, z);
  for (uint i = 0; i < N; ++i) {
    shared.zero[i] = float(int(((z[i] + zero_wrap) & mask) + source.zero_field));
  }
  // With 8 bits, outputs come in fours, and a row of scales need not start at 16 bytes.
  load<N, N % 8 == 0 && F::bits != 8>(source.scales + group * columns + column, shared.scale);
}

template <typename F, uint N, typename S>
inline void decode(thread const gptq_source<S>& source, thread const group_constants<N>& shared,
                   uint row, uint column, thread float* w) {
  const uint bits = F::bits;
  const uint mask = (1u << bits) - 1;
  size_t columns = source.columns;
  size_t bit = size_t(row) * bits;
  uint shift = uint(bit % 32);
  device const uint* words = source.qweight + bit / 32 * columns + column;
  uint q[N];
  load_words<N>(words, q);
  if (32 % bits == 0 || shift + bits <= 32) {
    for (uint i = 0; i < N; ++i) q[i] = q[i] >> shift & mask;
  } else {
    uint next[N];
    load_words<N>(words + columns, next);
    for (uint i = 0; i < N; ++i) q[i] = (q[i] >> shift | next[i] << (32 - shift)) & mask;
  }
  for (uint i = 0; i < N; ++i) w[i] = (float(int(q[i])) - shared.zero[i]) * shared.scale[i];
}

#include "../by_inputs.metal"
