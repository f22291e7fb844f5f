// Vectors of floats as wide as the processor's registers: g++ keeps wider ones in memory.

#if defined(__AVX512F__)
enum { VECTOR = 16, REGISTERS = 32 };
#elif defined(__AVX__)
enum { VECTOR = 8, REGISTERS = 16 };
#elif defined(__ARM_NEON)
enum { VECTOR = 4, REGISTERS = 32 };
#else
enum { VECTOR = 4, REGISTERS = 16 };
#endif

typedef float vec __attribute__((vector_size(VECTOR * sizeof(float))));

inline vec load_vec(const float* from) {
  vec result;
  memcpy(&result, from, sizeof result);
  return result;
}

inline void store_vec(float* to, vec from) { memcpy(to, &from, sizeof from); }

// The sum of a vector's elements.
inline float total(vec sums) {
  float partial[VECTOR];
  memcpy(partial, &sums, sizeof partial);
  for (uint half = VECTOR / 2; half > 0; half /= 2) {
    for (uint i = 0; i < half; ++i) partial[i] += partial[i + half];
  }
  return partial[0];
}
