// From codes to weights: w = scale*q - min, or scale*q where has_min is 0

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

// Runs of 32 columns, beside each other, that a format's bytes hold codes of.
template <typename F>
struct runs_of_bytes {
  enum { value = 1 };
};

// What a platform may assume of a format's codes and scales:
//
//   float16_t   codes are integers of at most 11 bits, nested scales included, with one float16
//               scale, or with powers of two (pow2_scale)
//   wide_scale  codes have 7 bits, F::zero is subtracted from them, and scale * (128 + F::zero)
//               fits 24 bits
//   float       nothing
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

// The scale of codes with two scales, one nested in the other. A platform may multiply q by the
// second scale instead and return the first.
template <uint N>
inline float nested_scale(float first, float second, thread float*) {
  return first * second;
}

// The same for powers of two. Their product may be subnormal, and GPUs flush subnormals to zero. A
// code of -0 becomes 0.
template <uint N, typename V>
inline float pow2_scale(float first, float second, thread V* q) {
  for (uint i = 0; i < N; ++i) q[i] = q[i] * first + V(0.0f);
  return second;
}

// Turns the codes q[0..N) into weights.
template <typename F, uint N>
inline void scale_codes(float scale, thread float* q) {
  for (uint i = 0; i < N; ++i) q[i] = q[i] * scale;
}

template <typename F, uint N>
inline void scale_codes(scaling by, thread float* q) {
  for (uint i = 0; i < N; ++i) {
    q[i] = has_min<F>::value ? by.scale * q[i] - by.min : q[i] * by.scale;
  }
}
