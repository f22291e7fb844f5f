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

// q[0..N) = weights of those codes.
template <typename F, uint N>
inline void scale_codes(scaling by, thread float* q) {
  for (uint i = 0; i < N; ++i) {
    q[i] = has_min<F>::value ? by.scale * q[i] - by.min : q[i] * by.scale;
  }
}
