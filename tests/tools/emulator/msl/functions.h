// The functions of <metal_stdlib> that kernels here use.

namespace metal {

template <typename A, typename B>
inline A as_type(B b) {
  static_assert(sizeof(A) == sizeof(B), "as_type keeps the size");
  A a;
  memcpy((void*)&a, (const void*)&b, sizeof a);
  return a;
}

inline uint popcount(uint x) { return uint(__builtin_popcount(x)); }
inline uint mulhi(uint a, uint b) { return uint(uint64_t(a) * b >> 32); }
inline uint clz(uint x) { return x ? uint(__builtin_clz(x)) : 32; }
inline uint ctz(uint x) { return x ? uint(__builtin_ctz(x)) : 32; }

inline float fma(float a, float b, float c) { return __builtin_fmaf(a, b, c); }
inline float fabs(float x) { return __builtin_fabsf(x); }
inline float sqrt(float x) { return __builtin_sqrtf(x); }
inline float rsqrt(float x) { return 1.0f / __builtin_sqrtf(x); }
inline float exp(float x) { return __builtin_expf(x); }
inline float exp2(float x) { return __builtin_exp2f(x); }
inline float log(float x) { return __builtin_logf(x); }
inline float floor(float x) { return __builtin_floorf(x); }
inline float ceil(float x) { return __builtin_ceilf(x); }
inline float rint(float x) { return __builtin_rintf(x); }
inline float ldexp(float x, int k) { return __builtin_ldexpf(x, k); }

template <typename T>
inline T abs(T x) {
  return x < T(0) ? T(-x) : x;
}
template <typename T>
inline T min(T a, T b) {
  return b < a ? b : a;
}
template <typename T>
inline T max(T a, T b) {
  return a < b ? b : a;
}
template <typename T>
inline T clamp(T x, T low, T high) {
  return metal::min(metal::max(x, low), high);
}
template <typename T>
inline T select(T a, T b, bool second) {
  return second ? b : a;
}

}  // namespace metal
