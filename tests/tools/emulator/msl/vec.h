// Vectors of 2, 3 and 4: constructors, components, arithmetic. No swizzles: CUDA has none.

namespace metal {

template <typename T, int N>
struct components;
template <typename T>
struct alignas(2 * sizeof(T)) components<T, 2> {
  union {
    T v[2];
    struct {
      T x, y;
    };
  };
};
template <typename T>
struct alignas(4 * sizeof(T)) components<T, 3> {
  union {
    T v[3];
    struct {
      T x, y, z;
    };
  };
};
template <typename T>
struct alignas(4 * sizeof(T)) components<T, 4> {
  union {
    T v[4];
    struct {
      T x, y, z, w;
    };
  };
};

template <typename T, int N>
struct vec : components<T, N> {
  vec() = default;
  // Written out, so that UBSan sees where a vector is read from and stored to.
  vec(const vec& other) { *this = other; }
  vec& operator=(const vec& other) {
    for (int i = 0; i < N; ++i) this->v[i] = other.v[i];
    return *this;
  }
  vec(T all) {
    for (int i = 0; i < N; ++i) this->v[i] = all;
  }
  template <typename U>
  explicit vec(vec<U, N> other) {
    for (int i = 0; i < N; ++i) this->v[i] = T(other.v[i]);
  }
  template <typename... More, std::enable_if_t<sizeof...(More) == N - 2, int> = 0>
  vec(T first, T second, More... more) {
    T all[] = {first, second, T(more)...};
    for (int i = 0; i < N; ++i) this->v[i] = all[i];
  }
  T& operator[](size_t i) { return this->v[i]; }
  const T& operator[](size_t i) const { return this->v[i]; }

#define VEC_OPERATOR(op)                                      \
  friend vec operator op(vec a, vec b) {                      \
    vec c;                                                    \
    for (int i = 0; i < N; ++i) c.v[i] = T(a.v[i] op b.v[i]); \
    return c;                                                 \
  }                                                           \
  template <typename A>                                       \
  vec& operator op## = (A b) {                                \
    return *this = *this op vec(b);                           \
  }
  VEC_OPERATOR(+)
  VEC_OPERATOR(-)
  VEC_OPERATOR(*)
  VEC_OPERATOR(/)
  VEC_OPERATOR(&)
  VEC_OPERATOR(|)
  VEC_OPERATOR(^)
  VEC_OPERATOR(<<)
  VEC_OPERATOR(>>)
#undef VEC_OPERATOR
};

template <typename T, int N>
inline T dot(vec<T, N> a, vec<T, N> b) {
  T sum = T(0);
  for (int i = 0; i < N; ++i) sum += a.v[i] * b.v[i];
  return sum;
}

}  // namespace metal

#define VEC_NAMES(T)             \
  typedef metal::vec<T, 2> T##2; \
  typedef metal::vec<T, 3> T##3; \
  typedef metal::vec<T, 4> T##4;
VEC_NAMES(char)
VEC_NAMES(uchar)
VEC_NAMES(short)
VEC_NAMES(ushort)
VEC_NAMES(int)
VEC_NAMES(uint)
VEC_NAMES(long)
VEC_NAMES(ulong)
VEC_NAMES(half)
VEC_NAMES(bfloat)
VEC_NAMES(float)
#undef VEC_NAMES
