// Codes as pairs of halves, one pair a word, and their products by mma.sync. qmv_mma.metal and the
// views of formats (views/) use them.

#include "half2_math.h"

namespace mlx_dequant {

// Loads N values as N / 2 pairs.
template <uint N, bool ALIGNED, typename T>
inline void load_half2(const T* x, uint* pairs) {
  if (ALIGNED) {
    load_words<N / 2>((const uint*)x, pairs);
  } else {
#pragma unroll
    for (uint i = 0; i < N / 2; ++i) {
      pairs[i] = as_type<ushort>(x[2 * i]) | uint(as_type<ushort>(x[2 * i + 1])) << 16;
    }
  }
}

// Converts pairs of halves to pairs of another type.
template <uint COUNT>
inline void convert_half2(uint (&)[COUNT], float16_t) {}

template <uint COUNT>
inline void convert_half2(uint (&pairs)[COUNT], bfloat16_t type) {
#pragma unroll
  for (uint i = 0; i < COUNT; ++i) {
    __half2 pair = as_type<__half2>(pairs[i]);
    float values[2] = {__half2float(__low2half(pair)), __half2float(__high2half(pair))};
    pairs[i] = rounded_pair(values, type);
  }
}

// Turns pairs of neighbouring values into pairs of values `BY` apart, within each 2 * BY values. BY is
// 2 or more.
template <uint N, uint BY>
inline void to_pair_stride(uint* pairs) {
  uint moved[N / 2];
#pragma unroll
  for (uint i = 0; i < N / 2; ++i) {
    uint first = i / BY * 2 * BY + i % BY;
    uint halves = first % 2 == 0 ? 0x5410 : 0x7632;
    moved[i] = __byte_perm(pairs[first / 2], pairs[(first + BY) / 2], halves);
  }
#pragma unroll
  for (uint i = 0; i < N / 2; ++i) pairs[i] = moved[i];
}

// How pairs of codes have their inputs, which those of x follow: neighbours, or inputs `BY` apart.
struct of_neighbours {
  template <uint>
  static inline void order_inputs(uint*) {}
};

template <uint BY>
struct of_inputs_apart {
  template <uint N>
  static inline void order_inputs(uint* pairs) {
    to_pair_stride<N, BY>(pairs);
  }
};

// Pairs of codes less zero points: field i of the first word with field i of the second.
template <typename F>
inline void half2_words(F, uint first, uint second, const float16_t* zero, uint* pairs) {
#pragma unroll
  for (uint i = 0; i < F::scale_block; ++i) {
    uint shift = F::shift(i);
    uint halves = __byte_perm(first, second, shift / 8 * 0x1111 + 0x4400);
    __half2 both = __halves2half2(zero[i], zero[i]);
    __half2 codes = half2_subtract_zero(halves, (1u << F::bits) - 1, shift % 8, shift % 8, both);
    pairs[i] = as_type<uint>(codes);
  }
}

// Pairs of codes less a zero point: each field of a word with the field 16 bits above it. Pairs are
// stored `stride` apart.
template <typename F>
inline void half2_fields(F, uint word, float16_t zero, uint stride, uint* pairs) {
#pragma unroll
  for (uint i = 0; i < 16 / F::bits; ++i) {
    uint shift = i * F::bits;
    uint halves = word >> shift / 8 * 8;
    __half2 both = __halves2half2(zero, zero);
    __half2 codes = half2_subtract_zero(halves, (1u << F::bits) - 1, shift % 8, shift % 8, both);
    pairs[i * stride] = as_type<uint>(codes);
  }
}

// Pairs of codes of neighbouring rows. A row has n codes.
template <uint COUNT>
inline void half2_rows(const float16_t (&q)[COUNT], uint n, uint* pairs) {
#pragma unroll
  for (uint i = 0; i < COUNT / 2; ++i) {
    uint at = i / n * 2 * n + i % n;
    pairs[i] = as_type<uint>(__halves2half2(q[at], q[at + n]));
  }
}

// Pairs of neighbouring codes, stored `stride` apart.
template <uint COUNT>
inline void half2_neighbours(const float16_t (&q)[COUNT], uint stride, uint* pairs) {
#pragma unroll
  for (uint i = 0; i < COUNT; i += 2) pairs[i / 2 * stride] = as_type<uint>(pair_at(q + i));
}

// sum += W * x for two outputs and the inputs of four lanes. a and b are the outputs' first pairs,
// c and d their second pairs; x holds two pairs. Of each output, a lane accumulates rows 2 * (lane
// % 4) and 2 * (lane % 4) + 1 of x.
#define MULTIPLY_ADD(type, name)                                                              \
  inline void multiply_add(float* sum, uint a, uint b, uint c, uint d, const uint* x, type) { \
    asm("mma.sync.aligned.m16n8k16.row.col.f32." name "." name                                \
        ".f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"                \
        : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])                              \
        : "r"(a), "r"(b), "r"(c), "r"(d), "r"(x[0]), "r"(x[1]));                              \
  }
MULTIPLY_ADD(float16_t, "f16")
MULTIPLY_ADD(bfloat16_t, "bf16")
#undef MULTIPLY_ADD

// sum += pairs [R / 2, N] times x's pairs [R / 2]. Four lanes share N outputs. Each lane has R
// inputs of these outputs and the same R inputs of row lane / 4 of x; their order is free.
template <uint N, uint R, typename T>
inline void multiply_half2(const uint* pairs, const uint* x, float (*sum)[4], T type) {
#pragma unroll
  for (uint r = 0; r < R / 2; r += 2) {
#pragma unroll
    for (uint i = 0; i < N; i += 2) {
      const uint* at = pairs + r * N + i;
      multiply_add(sum[i / 2], at[0], at[1], at[N], at[N + 1], x + r, type);
    }
  }
}

// The sums of x over four lanes, for rows 2 * (lane % 4) and 2 * (lane % 4) + 1.
template <uint COUNT, typename T>
inline void sum_half2(const uint (&x)[COUNT], float* sum, T type) {
  const float one[2] = {1.0f, 1.0f};
  uint ones = rounded_pair(one, type);
#pragma unroll
  for (uint i = 0; i < 4; ++i) sum[i] = 0.0f;
#pragma unroll
  for (uint i = 0; i < COUNT; i += 2) multiply_add(sum, ones, ones, ones, ones, x + i, type);
}

}  // namespace mlx_dequant
