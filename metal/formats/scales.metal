// What makes weights of a format's codes: w = scale*q - min, or scale*q where has_min says 0

struct scaling {
  float scale, min;
};

inline scaling scaled_by(float scale) {
  scaling result = {scale, 0.0f};
  return result;
}

inline scaling scaled_by(scaling by) { return by; }

template <typename F>
struct has_min {
  enum { value = 0 };
};

// How exact a format's codes and scales are. float16_t: codes are integers of at most 11 bits,
// nested scales included, and their scale is one float16 (or powers of two, for pow2_scale).
// wide_scale: codes have 7 bits, less F::zero, and the scale fits 24 bits when it is multiplied by
// 128 + F::zero. float: nothing is promised.
struct wide_scale;
template <typename F, typename S>
struct scale_traits {
  typedef float type;
};

// c[0..N) = a*b
template <uint N>
inline void multiply(thread const float* a, thread const float* b, thread float* c) {
  for (uint i = 0; i < N; ++i) c[i] = a[i] * b[i];
}

// The scale of codes that have two. A platform may multiply q by the second one instead.
template <uint N>
inline float nested_scale(float first, float second, thread float*) {
  return first * second;
}

// The same for powers of two whose product may be too small for a GPU's floats.
template <uint N>
inline float pow2_scale(float first, float second, thread float* q) {
  for (uint i = 0; i < N; ++i) q[i] *= first;
  return second;
}

// q[0..N) = weights of those codes.
template <typename F, uint N>
inline void scale_codes(scaling by, thread float* q) {
  for (uint i = 0; i < N; ++i) {
    q[i] = has_min<F>::value ? by.scale * q[i] - by.min : q[i] * by.scale;
  }
}
