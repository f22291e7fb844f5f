// CUDA through NVRTC, after headers that MLX includes: cuda_fp16.h and cuda_bf16.h are among them.

typedef unsigned char uint8_t;
typedef signed char int8_t;
typedef unsigned short uint16_t;
typedef unsigned short ushort;
typedef unsigned int uint;
typedef __half float16_t;
typedef __nv_bfloat16 bfloat16_t;

// Dynamic shared memory, which may be larger than a declared array.
#define SCRATCH(type, name, count) extern __shared__ __align__(1024) type name[]
#define threadgroup
#define device
#define thread
#define constant const
// Global memory: constant memory serialises lanes that read different entries.
#define TABLE alignas(16) __device__ const

namespace mlx_dequant {

// Codes of a row that qmv decodes before it multiplies them, and chunks of rows whose loads overlap
// in qvm. Many need few loads. Loads of x have 16 bytes. With several rows of x, qmv loads 8
// inputs of each at once; a lane's columns are neighbours (runs_apart is 0).
enum {
  decoded_at_once = 32,
  chunks_at_once = 2,
  loaded_at_once = 8,
  inputs_at_once = 8,
  runs_apart = 0
};

template <typename A, typename B>
inline A as_type(B b) {
  static_assert(sizeof(A) == sizeof(B), "as_type keeps the size");
  union {
    B b;
    A a;
  } bits = {b};
  return bits.a;
}

inline uint popcount(uint x) { return __popc(x); }

inline uint mulhi(uint a, uint b) { return __umulhi(a, b); }

inline float f16_of(uint bits) { return __half2float(__ushort_as_half(ushort(bits))); }

// The two in a word, the low one first.
inline void f16_pair(uint bits, float* pair) {
  pair[0] = f16_of(bits);
  pair[1] = f16_of(bits >> 16);
}

inline float load_f16(const uint8_t* p) { return f16_of(*(const ushort*)p); }

// Loads N words, as many at once as the address is aligned to: 4 or 2 where they divide N.
template <uint N>
struct aligned_words {
  alignas(N % 4 == 0 ? 16 : N % 2 == 0 ? 8 : 4) uint at[N ? N : 1];
};

template <uint N>
inline void load_words(const uint* p, uint* q) {
  aligned_words<N> words = *(const aligned_words<N>*)p;
#pragma unroll
  for (uint i = 0; i < N; ++i) q[i] = words.at[i];
}

#include "fields.h"

// (byte >> shift) & mask for each byte; mask << shift fits a byte.
template <uint N, uint ALIGN>
inline fields<N> load_fields(const uint8_t* p, uint shift, uint mask) {
  fields<N> result;
  if (N % 4 != 0) {
    result.words[0] = p[0] >> shift & mask;
    return result;
  }
  uint* to = result.words;
  if (ALIGN % 16 == 0) {
    load_words<N / 4>((const uint*)p, to);
  } else if (ALIGN % 8 == 0 && N % 8 == 0) {
#pragma unroll
    for (uint i = 0; i < N / 4; i += 2) load_words<2>((const uint*)p + i, to + i);
  } else if (ALIGN % 4 == 0) {
#pragma unroll
    for (uint i = 0; i < N / 4; ++i) to[i] = ((const uint*)p)[i];
  } else {
    // Loads the aligned words around the bytes and shifts them: half the loads.
    uint skipped = uint(size_t(p) % 4);
    const uint* words = (const uint*)(p - skipped);
    uint low = words[0];
#pragma unroll
    for (uint i = 0; i < N / 4; ++i) {
      uint high = i + 1 < N / 4 || skipped != 0 ? words[i + 1] : 0;
      to[i] = __funnelshift_r(low, high, skipped * 8 + shift) & mask * 0x01010101;
      low = high;
    }
    return result;
  }
#pragma unroll
  for (uint i = 0; i < N / 4; ++i) to[i] = to[i] >> shift & mask * 0x01010101;
  return result;
}

// q - zero point. Both are integers below 2^22, and as_zero_point makes the zero point. An integer
// in the low bits of the float 2^23 makes 2^23 + the integer, faster than a conversion.
inline float as_zero_point(uint number) { return as_type<float>(number | 0x4b000000); }
inline float subtract_zero(uint q, float zero) { return as_zero_point(q) - zero; }

// Byte k of a word, less a zero point.
inline float byte_subtract_zero(uint word, uint k, float zero) {
  return as_type<float>(__byte_perm(word, 0x4b000000, 0x7440 + k)) - zero;
}

// (word >> shift & mask) - zero point. Fields within bytes are masked four at a time; the compiler
// merges the masks of neighbouring fields.
inline float field_subtract_zero(uint word, uint shift, uint mask, float zero) {
  // 3-bit fields straddle bytes.
  if (mask == 7) return subtract_zero(word >> shift & mask, zero);
  return byte_subtract_zero(word >> (shift % 8) & mask * 0x01010101, shift / 8, zero);
}

// Byte k of a word.
inline float byte_of(uint word, uint k) { return byte_subtract_zero(word, k, as_zero_point(0)); }

// q[i] = field i - number.
template <uint N>
inline void to_numbers(fields<N> codes, uint number, float* q) {
#pragma unroll
  for (uint i = 0; i < N; ++i)
    q[i] = byte_subtract_zero(codes.words[i / 4], i % 4, as_zero_point(number));
}

#include "codes.h"

// Bytes 4*i to 4*i + 3 of a table, each plus 128.
inline uint table_word(const int8_t* table, uint i) {
  uint word = 0;
#pragma unroll
  for (uint k = 0; k < 4; ++k) word |= (uint8_t(table[4 * i + k]) ^ 128u) << (8 * k);
  return word;
}

// q[i] = the table's value for field i, of 4 bits. A byte permutation looks up four fields in eight
// entries.
template <uint N, typename V>
inline void look_up(fields<N> codes, const int8_t* table, V* q) {
#pragma unroll
  for (uint i = 0; i < N; i += 4) {
    uint code = codes.words[i / 4];
    uint pairs = code | code >> 4;
    uint selector = __byte_perm(pairs, 0, 0x4420) & 0x7777;
    uint low = __byte_perm(table_word(table, 0), table_word(table, 1), selector);
    uint high = __byte_perm(table_word(table, 2), table_word(table, 3), selector);
    uint second = (code >> 3 & 0x01010101) * 255;
    codes.words[i / 4] = (low & ~second) | (high & second);
  }
  to_numbers<N>(codes, 128, q);
}

inline uint load_u32(const uint8_t* p) {
  return uint(((const ushort*)p)[0]) | uint(((const ushort*)p)[1]) << 16;
}

template <uint N, typename Shift>
inline void split(uint word, uint mask, uint first, uint* q) {
#pragma unroll
  for (uint i = 0; i < N; ++i) q[i] = word >> Shift::shift(first + i) & mask;
}

// q[i] = the same, less the zero point zero[i].
template <uint N, typename Shift>
inline void split_subtract_zero(uint word, uint mask, uint first, const float* zero, float* q) {
#pragma unroll
  for (uint i = 0; i < N; ++i) {
    q[i] = field_subtract_zero(word, Shift::shift(first + i), mask, zero[i]);
  }
}

// Entry i of a format's lookup table. With SHARED_LUT it is read from a copy in shared memory,
// because lanes that read different entries of global memory take turns.
template <typename T>
inline uint lut(const T* table, uint i) {
#ifdef SHARED_LUT
  extern __shared__ __align__(1024) uint lut_in_shared[];
  return ((const T*)lut_in_shared)[i];
#else
  return table[i];
#endif
}

// Copies a table of WORDS words to the beginning of shared memory.
template <uint WORDS, typename T>
inline void load_lut(const T* table, uint thread_index) {
  static_assert(WORDS % 256 == 0, "what follows in shared memory is aligned to 1024 bytes");
  extern __shared__ __align__(1024) uint lut_in_shared[];
  for (uint i = thread_index; i < WORDS / 4; i += 256) {
    ((uint4*)lut_in_shared)[i] = ((const uint4*)table)[i];
  }
  __syncthreads();
}

struct mem_flags {
  enum { mem_threadgroup };
};

inline void threadgroup_barrier(int) { __syncthreads(); }

inline void simdgroup_barrier(int) { __syncwarp(); }

inline float simd_sum(float v) {
#pragma unroll
  for (int lane = 16; lane > 0; lane /= 2) v += __shfl_xor_sync(0xffffffff, v, lane);
  return v;
}

inline uint min(uint a, uint b) { return a < b ? a : b; }
inline uint max(uint a, uint b) { return a > b ? a : b; }

// Whether load may take 16 bytes at a time, from every eighth value of rows of `columns` values.
template <typename T>
inline bool is_aligned(const T* x, uint columns) {
  return columns % 8 == 0 && size_t(x) % 16 == 0;
}

template <uint N, bool ALIGNED, typename T>
inline void load(const T* x, float* v) {
  const uint count = (N * sizeof(T) + 3) / 4;
  if (ALIGNED && N * sizeof(T) % 16 == 0) {
    uint words[count];
    load_words<count>((const uint*)x, words);
#pragma unroll
    for (uint i = 0; i < N; ++i) v[i] = float(((const T*)words)[i]);
  } else {
#pragma unroll
    for (uint i = 0; i < N; ++i) v[i] = float(x[i]);
  }
}

template <uint N>
inline void store(float* out, const float* w) {
#pragma unroll
  for (uint i = 0; i < N; i += 4) {
    ((float4*)out)[i / 4] = make_float4(w[i], w[i + 1], w[i + 2], w[i + 3]);
  }
}

// Stores eight two-byte results at a time.
template <uint N, typename T, typename V>
inline void store(T* out, const V* w) {
  static_assert(sizeof(T) == 2 && N % 8 == 0, "eight two-byte results a store");
#pragma unroll
  for (uint i = 0; i < N; i += 8) {
    uint word[4];
#pragma unroll
    for (uint k = 0; k < 4; ++k) {
      T low = T(w[i + 2 * k]);
      T high = T(w[i + 2 * k + 1]);
      word[k] = uint(as_type<ushort>(low)) | uint(as_type<ushort>(high)) << 16;
    }
    ((uint4*)out)[i / 8] = make_uint4(word[0], word[1], word[2], word[3]);
  }
}

// All threads of a threadgroup copy `count` values to threadgroup memory.
template <typename T>
inline void copy_to_threadgroup(const T* from, uint count, T* to, uint thread_index) {
  const uint word = 16 / sizeof(T);
  uint words = size_t(from) % 16 == 0 ? count / word : 0;
#pragma unroll 4
  for (uint i = thread_index; i < words; i += 256) ((uint4*)to)[i] = ((const uint4*)from)[i];
  for (uint i = words * word + thread_index; i < count; i += 256) to[i] = from[i];
}

}  // namespace mlx_dequant
