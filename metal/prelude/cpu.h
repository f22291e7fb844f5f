// The host's C++ compiler: the format files under plain row loops, one weight run at a time.

#include <stddef.h>
#include <stdint.h>
#include <string.h>
#ifdef __F16C__
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

inline float load_f16(const uint8_t* p) {
  _Float16 h;
  memcpy(&h, p, 2);
  return float(h);
}

template <uint N, uint ALIGN>
inline void load_bytes(const uint8_t* p, uint8_t* q) {
  memcpy(q, p, N);
}

// Signed integers become floats in one instruction, unsigned ones in several.
template <uint N, uint ALIGN>
inline void load_codes(const uint8_t* p, uint shift, uint mask, float offset, float* q) {
  for (uint i = 0; i < N; ++i) q[i] = float(int(p[i] >> shift & mask)) - offset;
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
