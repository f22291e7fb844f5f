// The host's C++ compiler. The host backend's loops (backends/host/loops) call the format files.

#include <stddef.h>
#include <stdint.h>
#include <string.h>
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
// g++ takes a second for all of immintrin.h, most of a program's time. Its parts ask for this name.
#define _IMMINTRIN_H_INCLUDED
#include <smmintrin.h>
#include <avxintrin.h>
#include <avx2intrin.h>
#include <f16cintrin.h>
#ifdef __AVX512F__
#include <avx512fintrin.h>
#endif
#if defined(__AVX512VNNI__) && defined(__AVX512VL__)
#include <avx512vnnivlintrin.h>
#elif defined(__AVXVNNI__)
#include <avxvnniintrin.h>
#endif
#elif defined(__x86_64__)
#include <immintrin.h>
#endif

#define device
#define thread
#define constant const
#define TABLE static const
#define inline inline __attribute__((always_inline))

typedef unsigned int uint;
typedef unsigned short ushort;
typedef _Float16 float16_t;

namespace mlx_dequant {

template <typename A, typename B>
inline A as_type(B b) {
  static_assert(sizeof(A) == sizeof(B), "as_type keeps the size");
  A a;
  memcpy(&a, &b, sizeof a);
  return a;
}

inline uint min(uint a, uint b) { return a < b ? a : b; }

inline uint popcount(uint x) { return uint(__builtin_popcount(x)); }

inline uint mulhi(uint a, uint b) { return uint(uint64_t(a) * b >> 32); }

struct bfloat16_t {
  uint16_t bits;
  bfloat16_t() = default;
  // Rounds to nearest even. A NaN keeps its high bits and becomes quiet.
  inline explicit bfloat16_t(float value) {
    uint u = as_type<uint>(value);
    uint rounded = (u + 0x7fff + ((u >> 16) & 1)) >> 16;
    uint quiet = (u >> 16) | 0x40;
    bits = uint16_t((u & 0x7fffffff) > 0x7f800000 ? quiet : rounded);
  }
  inline operator float() const { return as_type<float>(uint(bits) << 16); }
};

inline float f16_of(uint bits) { return float(as_type<_Float16>(ushort(bits))); }

// The two in a word, the low one first.
inline void f16_pair(uint bits, float* pair) {
#ifdef __F16C__
  const __m128 both = _mm_cvtph_ps(_mm_cvtsi32_si128(int(bits)));
  pair[0] = both[0];
  pair[1] = both[1];
#else
  pair[0] = f16_of(bits);
  pair[1] = f16_of(bits >> 16);
#endif
}

inline float load_f16(const uint8_t* p) {
  _Float16 half;
  memcpy(&half, p, 2);
#if defined(__AVX512FP16__) && !defined(__clang__)
  // What g++ writes waits for what the register held before.
  float result;
  asm("vcvtsh2ss %1, %2, %0" : "=v"(result) : "vm"(half), "v"(0.0f));
  return result;
#else
  return float(half);
#endif
}

// N byte-wide fields, as one vector: compilers vectorize loops over bytes badly.
template <uint N>
struct fields {
  typedef uint vector __attribute__((vector_size((N + 3) / 4 * 4)));
  vector words;
};

// (byte >> shift) & mask for each byte; mask << shift fits a byte.
template <uint N, uint ALIGN>
inline fields<N> load_fields(const uint8_t* p, uint shift, uint mask) {
  fields<N> result = {};
  if constexpr (N % 4 == 0) {
    // g++ would copy 32 bytes through memory, half by half, and wait to load them as one.
    typedef typename fields<N>::vector unaligned __attribute__((aligned(1), may_alias));
    result.words = *(const unaligned*)p;
  } else {
    memcpy(&result, p, N);
  }
  result.words = result.words >> shift & mask * 0x01010101;
  return result;
}

// low | high << up, field by field.
template <uint N>
inline fields<N> join(fields<N> low, fields<N> high, uint up) {
  low.words |= high.words << up;
  return low;
}

// bits >> STEP * i as word i: compilers do a loop over a vector's elements one by one.
template <uint N, uint STEP>
inline fields<N> shifted(uint bits) {
  uint shifts[(N + 3) / 4];
  for (uint i = 0; i < (N + 3) / 4; ++i) shifts[i] = STEP * i;
  typename fields<N>::vector by;
  memcpy(&by, shifts, sizeof by);
  fields<N> result;
  result.words = (typename fields<N>::vector{} + bits) >> by;
  return result;
}

// Bit i of `bits` as field i.
template <uint N>
inline fields<N> spread(uint bits) {
  fields<N> result = shifted<N, 4>(bits);
  result.words = (result.words & 15) * 0x00204081 & 0x01010101;
  return result;
}

// Bits 2*i and 2*i + 1 of `bits` as field i.
template <uint N>
inline fields<N> spread_pairs(uint bits) {
  fields<N> result = shifted<N, 8>(bits);
  result.words = (result.words & 255) * 0x1001 & 0x000f000f;
  result.words = result.words * 0x41 & 0x03030303;
  return result;
}

// q - zero point. Both are integers below 2^22, and as_zero_point makes the zero point. An integer
// in the low bits of the float 2^23 makes 2^23 + the integer.
inline float as_zero_point(uint number) { return as_type<float>(number | 0x4b000000); }
inline float subtract_zero(uint q, float zero) { return as_zero_point(q) - zero; }

// (word >> shift & mask) - zero point.
inline float field_subtract_zero(uint word, uint shift, uint mask, float zero) {
  return subtract_zero(word >> shift & mask, zero);
}

// Entry i of a format's lookup table.
template <typename T>
inline uint lut(const T* table, uint i) {
  return table[i];
}

// Byte k of a word.
inline float byte_of(uint word, uint k) { return float(int(word >> (8 * k) & 255)); }

// Converts signed bytes to floats. g++ takes many steps to widen bytes without these intrinsics.
template <uint N>
inline void bytes_to_floats(const int8_t* bytes, float* q) {
  uint i = 0;
#ifdef __AVX512F__
  for (; i + 16 <= N; i += 16) {
    const __m128i vector = _mm_loadu_si128((const __m128i*)(bytes + i));
    _mm512_storeu_ps(q + i, _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(vector)));
  }
#endif
#ifdef __AVX2__
  for (; i + 8 <= N; i += 8) {
    const __m128i vector = _mm_loadl_epi64((const __m128i*)(bytes + i));
    _mm256_storeu_ps(q + i, _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(vector)));
  }
#endif
  for (; i < N; ++i) q[i] = float(bytes[i]);
}

// q[i] = field i - number, which fits a signed byte.
template <uint N>
inline void to_numbers(fields<N> codes, uint number, int8_t* q) {
  typedef uint8_t vector __attribute__((vector_size((N + 3) / 4 * 4)));
  const vector bytes = vector(codes.words) - uint8_t(number);
  memcpy(q, &bytes, N);
}

template <uint N>
inline void to_numbers(fields<N> codes, uint number, float* q) {
  int8_t bytes[N];
  to_numbers<N>(codes, number, bytes);
  bytes_to_floats<N>(bytes, q);
}

// As in signs.metal, whose bytes are positive.
template <uint N>
inline float signed_lut(uint low, uint high, uint first, uint signs, float* q) {
  const uint64_t entry = (low | uint64_t(high) << 32) >> 8 * first;
  int8_t bytes[8];
  memcpy(bytes, &entry, 8);
  bytes_to_floats<N>(bytes, q);
  typedef uint vector __attribute__((vector_size(N * sizeof(uint))));
  uint shifts[N];
  for (uint i = 0; i < N; ++i) shifts[i] = 31 - i;
  vector by, bits;
  memcpy(&by, shifts, sizeof by);
  memcpy(&bits, q, sizeof bits);
  bits ^= (vector{} + signs) << by & 0x80000000;
  memcpy(q, &bits, sizeof bits);
  return 1.0f;
}

#include "codes.h"

// q[i] = the table's value for field i, of 4 bits.
template <uint N>
inline void look_up(fields<N> codes, const int8_t* table, int8_t* q) {
  memcpy(q, &codes, N);
  uint i = 0;
#ifdef __SSSE3__
  for (; i + 16 <= N; i += 16) {
    const __m128i looked_up = _mm_shuffle_epi8(_mm_loadu_si128((const __m128i*)table),
                                               _mm_loadu_si128((const __m128i*)(q + i)));
    _mm_storeu_si128((__m128i*)(q + i), looked_up);
  }
  for (; i + 8 <= N; i += 8) {
    const __m128i looked_up = _mm_shuffle_epi8(_mm_loadu_si128((const __m128i*)table),
                                               _mm_loadl_epi64((const __m128i*)(q + i)));
    _mm_storel_epi64((__m128i*)(q + i), looked_up);
  }
#endif
  for (; i < N; ++i) q[i] = table[q[i]];
}

template <uint N>
inline void look_up(fields<N> codes, const int8_t* table, float* q) {
  int8_t values[N];
  look_up<N>(codes, table, values);
  bytes_to_floats<N>(values, q);
}

// Codes that are signed bytes take no scale.
template <uint N>
inline float nested_scale(float first, float second, int8_t*) {
  return first * second;
}

template <uint N>
inline float pow2_scale(float first, float second, int8_t*) {
  return first * second;
}

// Nothing is flushed here, and g++ would multiply codes in memory.
template <uint N>
inline float pow2_scale(float first, float second, float*) {
  return first * second;
}

inline uint load_u32(const uint8_t* p) {
  uint word;
  memcpy(&word, p, 4);
  return word;
}

// word >> Shift::shift(first + i) & mask as element i of one vector: compilers vectorize a loop of
// constant shifts badly.
template <uint N, typename Shift>
inline auto split(uint word, uint mask, uint first) {
  typedef uint vector __attribute__((vector_size(N * sizeof(uint))));
  uint shifts[N];
  for (uint i = 0; i < N; ++i) shifts[i] = Shift::shift(first + i);
  vector by;
  memcpy(&by, shifts, sizeof by);
  return ((vector{} + word) >> by) & mask;
}

template <uint N, typename Shift>
inline void split(uint word, uint mask, uint first, uint* q) {
  const auto fields = split<N, Shift>(word, mask, first);
  memcpy(q, &fields, sizeof fields);
}

// q[i] = the same, less the zero point zero[i].
template <uint N, typename Shift>
inline void split_subtract_zero(uint word, uint mask, uint first, const float* zero, float* q) {
  typedef float vector __attribute__((vector_size(N * sizeof(float))));
  vector zeros;
  memcpy(&zeros, zero, sizeof zeros);
  const vector result = vector(split<N, Shift>(word, mask, first) | 0x4b000000) - zeros;
  memcpy(q, &result, sizeof result);
}

template <uint N>
inline void load_words(const uint* p, uint* q) {
  memcpy(q, p, N * sizeof(uint));
}

template <uint N, bool ALIGNED, typename T>
inline void load(const T* x, float* v) {
  for (uint i = 0; i < N; ++i) v[i] = float(x[i]);
}

template <uint N, typename T>
inline void store(T* out, const float* w) {
  for (uint i = 0; i < N; ++i) out[i] = T(w[i]);
}

#ifdef __F16C__
// Compilers convert float16 one value at a time without these intrinsics.
template <uint N, bool ALIGNED>
inline void load(const float16_t* x, float* v) {
  uint i = 0;
  for (; i + 8 <= N; i += 8) {
    _mm256_storeu_ps(v + i, _mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)(x + i))));
  }
  for (; i < N; ++i) v[i] = float(x[i]);
}

template <uint N>
inline void store(float16_t* out, const float* w) {
  uint i = 0;
  for (; i + 8 <= N; i += 8) {
    _mm_storeu_si128((__m128i*)(out + i), _mm256_cvtps_ph(_mm256_loadu_ps(w + i), 0));
  }
  for (; i < N; ++i) out[i] = float16_t(w[i]);
}
#endif

}  // namespace mlx_dequant
