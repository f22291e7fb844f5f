// half and bfloat: 16 bits in memory, float in arithmetic, rounded once an operation.
// Conversions use integers, so that no machine's half precision and no flushing mode shows.

namespace metal {

inline uint32_t float_bits(float value) {
  uint32_t word;
  memcpy(&word, &value, 4);
  return word;
}

inline float bits_float(uint32_t word) {
  float value;
  memcpy(&value, &word, 4);
  return value;
}

inline uint32_t round_even(uint32_t word, uint32_t shift) {
  return (word + (1u << (shift - 1)) - 1 + (word >> shift & 1)) >> shift;
}

struct half_code {
  static uint16_t pack(float value) {
    uint32_t word = float_bits(value);
    uint32_t sign = word >> 16 & 0x8000;
    uint32_t magnitude = word & 0x7fffffff;
    if (magnitude > 0x7f800000) return uint16_t(sign | 0x7e00);
    if (magnitude >= 0x47800000) return uint16_t(sign | 0x7c00);
    if (magnitude < 0x33000000) return uint16_t(sign);
    if (magnitude >= 0x38800000) return uint16_t(sign | round_even(magnitude - 0x38000000, 13));
    uint32_t significand = (magnitude & 0x7fffff) | 0x800000;
    return uint16_t(sign | round_even(significand, 126 - (magnitude >> 23)));
  }
  static float unpack(uint16_t bits) {
    uint32_t sign = uint32_t(bits & 0x8000) << 16;
    uint32_t exponent = bits >> 10 & 31;
    uint32_t fraction = bits & 0x3ff;
    if (exponent == 0) return bits_float(sign | float_bits(float(fraction) * 0x1p-24f));
    if (exponent == 31) return bits_float(sign | 0x7f800000 | fraction << 13);
    return bits_float(sign | (exponent + 112) << 23 | fraction << 13);
  }
};

struct bfloat_code {
  static uint16_t pack(float value) {
    uint32_t word = float_bits(value);
    if ((word & 0x7fffffff) > 0x7f800000) return uint16_t(word >> 16 | 0x40);
    return uint16_t((uint64_t(word) + 0x7fff + (word >> 16 & 1)) >> 16);
  }
  static float unpack(uint16_t bits) { return bits_float(uint32_t(bits) << 16); }
};

template <typename A>
using if_number = std::enable_if_t<std::is_arithmetic_v<A>, int>;
template <typename A>
using if_integer = std::enable_if_t<std::is_integral_v<A>, int>;

template <typename Code>
struct narrow {
  uint16_t bits;

  narrow() = default;
  template <typename A, if_number<A> = 0>
  narrow(A value) : bits(Code::pack(float(value))) {}
  template <typename Other>
  narrow(narrow<Other> value) : bits(Code::pack(float(value))) {}
  operator float() const { return Code::unpack(bits); }
  narrow operator-() const { return narrow(-float(*this)); }
  template <typename A>
  narrow& operator+=(A value) {
    return *this = narrow(*this + value);
  }
  template <typename A>
  narrow& operator-=(A value) {
    return *this = narrow(*this - value);
  }
  template <typename A>
  narrow& operator*=(A value) {
    return *this = narrow(*this * value);
  }
  template <typename A>
  narrow& operator/=(A value) {
    return *this = narrow(*this / value);
  }
};

// An integer takes the type of the half it meets; a float makes the result a float.
#define NARROW_OPERATOR(op)                                \
  template <typename C>                                    \
  inline narrow<C> operator op(narrow<C> a, narrow<C> b) { \
    return narrow<C>(float(a) op float(b));                \
  }                                                        \
  template <typename C, typename A, if_integer<A> = 0>     \
  inline narrow<C> operator op(narrow<C> a, A b) {         \
    return a op narrow<C>(b);                              \
  }                                                        \
  template <typename C, typename A, if_integer<A> = 0>     \
  inline narrow<C> operator op(A a, narrow<C> b) {         \
    return narrow<C>(a) op b;                              \
  }
NARROW_OPERATOR(+)
NARROW_OPERATOR(-)
NARROW_OPERATOR(*)
NARROW_OPERATOR(/)
#undef NARROW_OPERATOR

}  // namespace metal

typedef metal::narrow<metal::half_code> half;
typedef metal::narrow<metal::bfloat_code> bfloat;
typedef half float16_t;
typedef bfloat bfloat16_t;
