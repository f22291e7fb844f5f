// The host's C++ compiler: the format files under plain row loops, one weight run at a time.

#include <stddef.h>
#include <stdint.h>
#include <string.h>
#if defined(__F16C__) || defined(__SSSE3__)
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

inline uint popcount(uint x) { return uint(__builtin_popcount(x)); }

inline uint mulhi(uint a, uint b) { return uint(uint64_t(a) * b >> 32); }

struct bfloat16_t {
  uint16_t bits;
  bfloat16_t() = default;
  // To nearest even; a NaN keeps its high bits and becomes quiet.
  inline explicit bfloat16_t(float value) {
    uint u = as_type<uint>(value);
    uint rounded = (u + 0x7fff + ((u >> 16) & 1)) >> 16;
    uint quiet = (u >> 16) | 0x40;
    bits = uint16_t((u & 0x7fffffff) > 0x7f800000 ? quiet : rounded);
  }
  inline operator float() const { return as_type<float>(uint(bits) << 16); }
};

inline float f16_of(uint bits) { return float(as_type<_Float16>(ushort(bits))); }

inline float load_f16(const uint8_t* p) {
  _Float16 h;
  memcpy(&h, p, 2);
  return float(h);
}

template <uint N, uint ALIGN>
inline void load_bytes(const uint8_t* p, uint8_t* q) {
  memcpy(q, p, N);
}

#include "fields.h"

// Bits shift and up of each byte, as many as mask has; mask << shift fits a byte.
template <uint N, uint ALIGN>
inline fields<N> load_fields(const uint8_t* p, uint shift, uint mask) {
  fields<N> result = {};
  memcpy(&result, p, N);
  for (uint i = 0; i < (N + 3) / 4; ++i) {
    result.words[i] = result.words[i] >> shift & mask * 0x01010101;
  }
  return result;
}

// q less the number whose offset_of is given; both are whole numbers below 2^22.
inline float offset_of(uint number) { return float(int(number)); }
inline float less(uint q, float offset) { return float(int(q)) - offset; }

// The masked bits of a word from `shift` on, less the number of an offset.
inline float field_less(uint word, uint shift, uint mask, float offset) {
  return less(word >> shift & mask, offset);
}

// Byte k of a word.
inline float byte_of(uint word, uint k) { return float(int(word >> (8 * k) & 255)); }

// q[i] = field i less a number. Signed integers become floats in one instruction,
// unsigned ones in several.
template <uint N>
inline void to_floats(fields<N> codes, uint number, float* q) {
  uint8_t bytes[N];
  memcpy(bytes, &codes, N);
  for (uint i = 0; i < N; ++i) q[i] = float(int(bytes[i])) - float(number);
}

// q[i] = the table's value for field i, of 4 bits.
template <uint N>
inline void look_up(fields<N> codes, const int8_t* table, float* q) {
  int8_t values[N];
  memcpy(values, &codes, N);
  uint i = 0;
#ifdef __SSSE3__
  for (; i + 16 <= N; i += 16) {
    const __m128i found = _mm_shuffle_epi8(_mm_loadu_si128((const __m128i*)table),
                                           _mm_loadu_si128((const __m128i*)(values + i)));
    _mm_storeu_si128((__m128i*)(values + i), found);
  }
#endif
  for (; i < N; ++i) values[i] = table[values[i]];
  for (i = 0; i < N; ++i) q[i] = float(values[i]);
}

inline uint load_u32(const uint8_t* p) {
  uint word;
  memcpy(&word, p, 4);
  return word;
}

// As one vector operation: compilers make a poor job of a loop of constant shifts.
template <uint N, typename Shift>
inline void split(uint word, uint mask, uint first, uint* q) {
  typedef uint vector __attribute__((vector_size(N * sizeof(uint))));
  uint shifts[N];
  for (uint i = 0; i < N; ++i) shifts[i] = Shift::shift(first + i);
  vector by;
  memcpy(&by, shifts, sizeof by);
  vector fields = ((vector{} + word) >> by) & mask;
  memcpy(q, &fields, sizeof fields);
}

// q[i] = the same, less the number of offset[i].
template <uint N, typename Shift>
inline void split_less(uint word, uint mask, uint first, const float* offset, float* q) {
  uint fields[N];
  split<N, Shift>(word, mask, first, fields);
  for (uint i = 0; i < N; ++i) q[i] = less(fields[i], offset[i]);
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
// Compilers convert to float16 one at a time unless they are asked by name.
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
