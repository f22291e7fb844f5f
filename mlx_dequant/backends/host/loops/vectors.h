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

// Floats from words of 32 bits that are loaded as one: g++ stores them in 8s and would wait for 16.
#ifdef __clang__
enum { STORED = VECTOR };
#else
enum { STORED = VECTOR < 8 ? int(VECTOR) : 8 };
#endif

// N floats.
template <uint N>
struct vector_of {
  typedef float type __attribute__((vector_size(N * sizeof(float))));
  typedef type unaligned __attribute__((aligned(4), may_alias));
};

typedef typename vector_of<VECTOR>::type vec;

// Not by memcpy: g++ would copy 64 bytes through memory, half by half, and wait to load them as one.
template <uint N>
inline typename vector_of<N>::type load_floats(const float* from) {
  return *(const typename vector_of<N>::unaligned*)from;
}

template <typename V>
inline void store_floats(float* to, V from) {
  *(typename vector_of<sizeof(V) / sizeof(float)>::unaligned*)to = from;
}

inline vec load_vec(const float* from) { return load_floats<VECTOR>(from); }

// The sum of a vector's elements.
template <typename V>
inline float total(V sums) {
  float parts[sizeof(V) / sizeof(float)];
  memcpy(parts, &sums, sizeof parts);
  typename vector_of<4>::type four = load_floats<4>(parts);
  for (uint i = 4; i < sizeof(V) / sizeof(float); i += 4) four += load_floats<4>(parts + i);
  return (four[0] + four[2]) + (four[1] + four[3]);
}
