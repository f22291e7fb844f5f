// Barriers and simdgroup functions: places where threads meet, each known by its source line.

#include "lanes.h"

enum class mem_flags { mem_none = 0, mem_device = 1, mem_threadgroup = 2, mem_texture = 4 };
constexpr mem_flags operator|(mem_flags a, mem_flags b) { return mem_flags(int(a) | int(b)); }

namespace metal {

inline void threadgroup_barrier(mem_flags flags, EMULATOR_AT) {
  emulator::hooks->barrier({"threadgroup_barrier", file, line}, true, flags != mem_flags::mem_none);
}
inline void simdgroup_barrier(mem_flags flags, EMULATOR_AT) {
  emulator::hooks->barrier({"simdgroup_barrier", file, line}, false, flags != mem_flags::mem_none);
}

#define SIMD_FOLD(name, expression)                       \
  template <typename T>                                   \
  inline T name(T value, EMULATOR_AT) {                   \
    emulator::Lanes<T> lanes({#name, file, line}, value); \
    T a = lanes[0];                                       \
    for (uint i = 1; i < emulator::hooks->lanes(); ++i) { \
      T b = lanes[i];                                     \
      a = expression;                                     \
    }                                                     \
    return a;                                             \
  }
SIMD_FOLD(simd_sum, T(a + b))
SIMD_FOLD(simd_product, T(a* b))
SIMD_FOLD(simd_max, b > a ? b : a)
SIMD_FOLD(simd_min, b < a ? b : a)
SIMD_FOLD(simd_and, T(a& b))
SIMD_FOLD(simd_or, T(a | b))
SIMD_FOLD(simd_xor, T(a ^ b))
SIMD_FOLD(simd_all, a&& b)
SIMD_FOLD(simd_any, a || b)
#undef SIMD_FOLD

// A lane that is not there has undefined values: all bits 1 here, a NaN in a float.
#define SIMD_SHUFFLE(name, from)                          \
  template <typename T>                                   \
  inline T name(T value, ushort k, EMULATOR_AT) {         \
    emulator::Lanes<T> lanes({#name, file, line}, value); \
    uint me = emulator::lane();                           \
    return lanes[from];                                   \
  }
SIMD_SHUFFLE(simd_shuffle, (void(me), k))
SIMD_SHUFFLE(simd_broadcast, (void(me), k))
SIMD_SHUFFLE(simd_shuffle_xor, me ^ k)
SIMD_SHUFFLE(simd_shuffle_up, me < k ? me : me - k)
SIMD_SHUFFLE(simd_shuffle_down, me + k > 31 ? me : me + k)
#undef SIMD_SHUFFLE

template <typename T>
inline T simd_broadcast_first(T value, EMULATOR_AT) {
  return emulator::Lanes<T>({"simd_broadcast_first", file, line}, value)[0];
}
template <typename T>
inline T simd_prefix_inclusive_sum(T value, EMULATOR_AT) {
  emulator::Lanes<T> lanes({"simd_prefix_inclusive_sum", file, line}, value);
  T sum = lanes[0];
  for (uint i = 1; i <= emulator::lane(); ++i) sum = T(sum + lanes[i]);
  return sum;
}
template <typename T>
inline T simd_prefix_exclusive_sum(T value, EMULATOR_AT) {
  emulator::Lanes<T> lanes({"simd_prefix_exclusive_sum", file, line}, value);
  T sum = T(0);
  for (uint i = 0; i < emulator::lane(); ++i) sum = T(sum + lanes[i]);
  return sum;
}

}  // namespace metal
