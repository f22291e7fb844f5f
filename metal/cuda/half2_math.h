// The types in which CUDA computes weights for its matrix units: float, or a type that gives the
// same weights with fewer instructions.

namespace mlx_dequant {

// Rounds two weights to the type of the last argument and puts them into one word.
inline uint rounded_pair(const float* w, float16_t) {
  return as_type<uint>(__floats2half2_rn(w[0], w[1]));
}

inline uint rounded_pair(const float* w, bfloat16_t) {
  return as_type<uint>(__floats2bfloat162_rn(w[0], w[1]));
}

// The type in which weights for fragments of X are computed, where scale_traits say S. For a code
// of at most 11 significant bits and a float16 scale, half arithmetic gives the correctly rounded
// float16 weight, two weights at a time.
template <typename X, typename S>
struct compute_type {
  typedef float type;
};
template <>
struct compute_type<float16_t, float16_t> {
  typedef float16_t type;
};

struct wide_scale;  // defined in scales.metal

// A 7-bit code as the float code + 128, which one byte permutation makes. Multiplying by the scale
// also subtracts scale * (128 + F::zero), which is exact if that product fits 24 bits. An infinite
// scale gives NaN.
struct raised {
  float value;
};
template <typename X>
struct compute_type<X, wide_scale> {
  typedef raised type;
};

template <uint N>
inline void to_numbers(fields<N> codes, uint, raised* q) {
#pragma unroll
  for (uint i = 0; i < N; ++i) {
    uint bits = __byte_perm(codes.words[i / 4], 0x43000000, 0x7044 | i % 4 << 8);
    q[i].value = as_type<float>(bits);
  }
}

template <typename F, uint N, typename B>
inline void scale_codes(B by, raised* q) {
  float zero = by.scale * float(128 + F::zero);
#pragma unroll
  for (uint i = 0; i < N; ++i) q[i].value = __fmaf_rn(by.scale, q[i].value, -zero);
}

template <typename X>
inline uint rounded_pair(const raised* w, X x) {
  float pair[2] = {w[0].value, w[1].value};
  return rounded_pair(pair, x);
}

// The functions that formats and loaders call, for half values.

inline __half2 pair_at(const float16_t* q) { return __halves2half2(q[0], q[1]); }

inline void set_pair(__half2 pair, float16_t* q) {
  q[0] = __low2half(pair);
  q[1] = __high2half(pair);
}

inline uint rounded_pair(const float16_t* w, float16_t) { return as_type<uint>(pair_at(w)); }

template <uint N>
inline void multiply_all(float16_t* q, float by) {
  __half2 scale = __float2half2_rn(by);
#pragma unroll
  for (uint i = 0; i < N; i += 2) set_pair(__hmul2(pair_at(q + i), scale), q + i);
}

// The half 1024 + z, which has z in its low bits.
inline void set_zero_point(uint z, float16_t& zero) { zero = __ushort_as_half(ushort(0x6400 | z)); }

// One field of each 16-bit half of a word, less zero points. `mask` is a field's mask; `low` and
// `high` are the first bits of the two fields within their halves.
inline __half2 half2_subtract_zero(uint halves, uint mask, uint low, uint high, __half2 zero) {
  uint word;  // halves & masks | 1024 in both halves; compilers emit two instructions
  asm("lop3.b32 %0, %1, %2, %3, 0xea;"
      : "=r"(word)
      : "r"(halves), "r"(mask << low | mask << (16 + high)), "r"(0x64006400u));
  __half2 codes = as_type<__half2>(word);
  if (low + high == 0) return __hsub2(codes, zero);
  float2 unit = make_float2(1.0f / (1 << low), 1.0f / (1 << high));
  __half2 bias = __floats2half2_rn(1024.0f - 1024.0f * unit.x, 1024.0f - 1024.0f * unit.y);
  return __hfma2(codes, __floats2half2_rn(unit.x, unit.y), __hsub2(bias, zero));
}

template <uint N, typename Shift>
inline void split_subtract_zero(uint word, uint mask, uint first, const float16_t* zero,
                                float16_t* q) {
#pragma unroll
  for (uint i = 0; i < N; i += 2) {
    uint low = Shift::shift(first + i), high = Shift::shift(first + i + 1);
    uint halves = word >> low;
    if (high == low + 16) {
      low = high = 0;
    } else if (mask == 7) {  // may straddle bytes
      halves = (halves & mask) | (word >> high & mask) << 16;
      low = high = 0;
    } else {
      halves = __byte_perm(word, 0, low / 8 + (high / 8 << 8));
      low %= 8;
      high %= 8;
    }
    set_pair(half2_subtract_zero(halves, mask, low, high, pair_at(zero + i)), q + i);
  }
}

template <uint N>
inline void fields_subtract_zero(const uint* words, uint shift, uint mask, const float16_t* zero,
                                 float16_t* q) {
  uint by = mask == 7 ? shift : 0;
  uint byte = (shift - by) / 8, up = (shift - by) % 8;
#pragma unroll
  for (uint i = 0; i < N; i += 2) {
    uint halves = __byte_perm(words[i] >> by, words[i + 1] >> by, 0x0400 + byte * 0x0101);
    set_pair(half2_subtract_zero(halves, mask, up, up, pair_at(zero + i)), q + i);
  }
}

// q[i] = field i - number, two fields at a time.
template <uint N>
inline void to_numbers(fields<N> codes, uint number, float16_t* q) {
  static_assert(N % 4 == 0, "whole words");
  __half2 zero = as_type<__half2>(0x64006400 | number * 0x10001);
#pragma unroll
  for (uint i = 0; i < N; i += 2) {
    uint pair = __byte_perm(codes.words[i / 4], 0x64646464, i % 4 == 0 ? 0x4140 : 0x4342);
    set_pair(__hsub2(as_type<__half2>(pair), zero), q + i);
  }
}

template <uint N>
inline float signed_lut(uint low, uint high, uint, uint signs, float16_t* q) {
  static_assert(N == 8, "a whole LUT entry");
#pragma unroll
  for (uint i = 0; i < 8; i += 2) {
    uint bytes = __byte_perm(i < 4 ? low : high, 0x64646464, i % 4 == 0 ? 0x4140 : 0x4342);
    __half2 pair = __hsub2(as_type<__half2>(bytes), __float2half2_rn(1024.0f));
    // Moves two sign bits at once: the product holds copies of them 15 bits apart.
    uint minus = (signs >> i & 3) * 0x40008000 & 0x80008000;
    set_pair(as_type<__half2>(as_type<uint>(pair) ^ minus), q + i);
  }
  return 1.0f;
}

template <typename F, uint N>
inline void scale_codes(float scale, float16_t* q) {
  multiply_all<N>(q, scale);
}

template <typename F, uint N, typename B>
inline void scale_codes(B by, float16_t* q) {
  multiply_all<N>(q, by.scale);
}

// Exact: a code times its second scale has at most 11 bits.
template <uint N>
inline float nested_scale(float first, float second, float16_t* q) {
  multiply_all<N>(q, second);
  return first;
}

// Splits a product of powers of two. The codes are multiplied by a factor within half's range,
// which is exact, so only the second multiplication rounds. The second factor stays finite, because
// a code may be 0.
template <uint N>
inline float pow2_scale(float first, float second, float16_t* q) {
  float scale = first * second;
  const float lowest = 1.0f / 16384, highest = 32768.0f;
  float factor = scale < lowest ? lowest : scale < highest ? scale : highest;
  multiply_all<N>(q, factor);
  float rest = scale * as_type<float>(0x7f000000 - as_type<uint>(factor));
  return rest < highest ? rest : highest;
}

template <uint N>
inline void multiply(const float16_t* a, const float16_t* b, float16_t* c) {
#pragma unroll
  for (uint i = 0; i < N; i += 2) set_pair(__hmul2(pair_at(a + i), pair_at(b + i)), c + i);
}

template <uint N, bool ALIGNED>
inline void load(const float16_t* x, float16_t* v) {
#pragma unroll
  for (uint i = 0; i < N; i += 2) set_pair(((const __half2*)x)[i / 2], v + i);
}

}  // namespace mlx_dequant
