// x in whole numbers of 8 bits, and their products with codes.

#include "vectors.h"

// 32 elements of x: element i is about scale * q[i].
struct Rounded {
  float scale;
  float total[2];  // the sum of q, of either half
  int8_t q[32];    // -127 to 127
};

enum { LANES = 8 };
typedef vector_of<LANES>::type floats;
typedef int ints __attribute__((vector_size(LANES * sizeof(int))));

// Element i is the sum of w[j] * x[j] for the four j from 4 * i on. w was stored in blocks.
template <uint BLOCK>
inline floats dot(const int8_t* w, const int8_t* x) {
#if defined(__AVX2__)
  // What was stored in two halves is slow to load as one.
  const __m256i codes = BLOCK < 32 ? _mm256_set_m128i(_mm_loadu_si128((const __m128i*)(w + 16)),
                                                      _mm_loadu_si128((const __m128i*)w))
                                   : _mm256_loadu_si256((const __m256i*)w);
  // One factor has to be unsigned, so the codes' signs go to x. Sums of two products fit 16 bits.
  const __m256i left = _mm256_abs_epi8(codes);
  const __m256i right = _mm256_sign_epi8(_mm256_loadu_si256((const __m256i*)x), codes);
#if defined(__AVX512VNNI__) && defined(__AVX512VL__)
  const __m256i sums = _mm256_dpbusd_epi32(_mm256_setzero_si256(), left, right);
#elif defined(__AVXVNNI__)
  const __m256i sums = _mm256_dpbusd_avx_epi32(_mm256_setzero_si256(), left, right);
#else
  const __m256i sums = _mm256_madd_epi16(_mm256_maddubs_epi16(left, right), _mm256_set1_epi16(1));
#endif
  return (floats)_mm256_cvtepi32_ps(sums);
#else
  ints sums = {};
#ifdef __ARM_FEATURE_DOTPROD
  for (uint i = 0; i < 2; ++i) {
    // arm_neon.h has a float16_t of its own.
    typedef int8_t bytes __attribute__((vector_size(16)));
    typedef int words __attribute__((vector_size(16)));
    bytes left, right;
    words four = {};
    memcpy(&left, w + 16 * i, 16);
    memcpy(&right, x + 16 * i, 16);
    asm("sdot %0.4s, %1.16b, %2.16b" : "+w"(four) : "w"(left), "w"(right));
    memcpy((char*)&sums + 16 * i, &four, 16);
  }
#else
  for (uint i = 0; i < 32; ++i) sums[i / 4] += w[i] * x[i];
#endif
  return __builtin_convertvector(sums, floats);
#endif
}
