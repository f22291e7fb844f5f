// Metal. MLX puts <metal_stdlib>, `using namespace metal` and bfloat16_t before this.

#define inline inline __attribute__((always_inline))
#define TABLE constant
#define SCRATCH(type, name, count) alignas(16) threadgroup type name[count]

namespace mlx_dequant {

// Codes of a row that qmv decodes before it multiplies them, and chunks of rows whose loads overlap
// in qvm. Few need few registers; other threadgroups wait in the meantime. Loads of x have 64 bits:
// each takes its place as a 32-bit index. With four rows of x, qmv loads 16 inputs of each at once.
// Lanes of qmv share no bytes (runs_apart).
enum {
  decoded_at_once = 8,
  chunks_at_once = 1,
  loaded_at_once = 4,
  inputs_at_once = 16,
  runs_apart = 1
};

// The float16 in the low bits.
inline float f16_of(uint bits) { return float(as_type<half>(ushort(bits))); }

// The two in a word, the low one first.
inline void f16_pair(uint bits, thread float* pair) {
  pair[0] = f16_of(bits);
  pair[1] = f16_of(bits >> 16);
}

// A float16 at a 2-byte aligned address.
inline float load_f16(device const uint8_t* p) { return float(*(device const half*)p); }

// A little-endian 32-bit word at a 2-byte aligned address.
inline uint load_u32(device const uint8_t* p) {
  return as_type<uint>(ushort2(((device const ushort*)p)[0], ((device const ushort*)p)[1]));
}

#include "fields.h"

// (byte >> shift) & mask for each byte; mask << shift fits a byte.
template <uint N, uint ALIGN>
inline fields<N> load_fields(device const uint8_t* p, uint shift, uint mask) {
  fields<N> result;
  if (N % 4 != 0) {
    result.words[0] = p[0] >> shift & mask;
    return result;
  }
#pragma unroll
  for (uint i = 0; i < N / 4; ++i) {
    uint word;
    if (ALIGN % 4 == 0) {
      word = ((device const uint*)p)[i];
    } else if (ALIGN % 2 == 0) {
      word = load_u32(p + 4 * i);
    } else {
      word =
          p[4 * i] | uint(p[4 * i + 1]) << 8 | uint(p[4 * i + 2]) << 16 | uint(p[4 * i + 3]) << 24;
    }
    result.words[i] = word >> shift & mask * 0x01010101;
  }
  return result;
}

// A number below 2048 in the low bits of a half is that number times 2^-24. Apple's GPUs keep
// subnormal halves, and read a half as a float for nothing.
inline float low_bits(ushort bits) { return float(as_type<half>(bits)); }
inline float byte_unit() { return 16777216.0f; }

// byte_unit() * 2^-shift, without a division.
inline float byte_unit(uint shift) { return as_type<float>((151 - shift) << 23); }

// A zero point, an integer below 2^22, in the form that field_subtract_zero takes.
inline float as_zero_point(uint number) { return float(int(number)); }

// (word >> shift & mask) - zero point. Neighbouring fields share a shift, and are masked where they
// then lie in the low 11 bits.
inline float field_subtract_zero(uint word, uint shift, uint mask, float zero) {
  uint up = shift % (mask == 7 ? 9 : 8);
  return low_bits(ushort(word >> (shift - up)) & mask << up) * byte_unit(up) - zero;
}

// Entry i of a format's lookup table.
template <typename T>
inline uint lut(device const T* table, uint i) {
  return table[i];
}

// byte_unit() times this is byte k of a word, negative where the lowest bit of `sign` is set.
inline float signed_byte(uint word, uint k, uint sign) {
  return low_bits(ushort((word >> (8 * k) & 255) | sign << 15));
}

// q[i] * the returned unit = field i.
template <uint N>
inline float to_numbers(fields<N> codes, thread float* q) {
#pragma unroll
  for (uint i = 0; i < N; ++i) q[i] = low_bits(codes.words[i / 4] >> (i % 4 * 8) & 255);
  return byte_unit();
}

// q[i] = field i - number. Where the number is at most 4, fields have at most 3 bits, and two of them
// lie in the low 11 bits of a half.
template <uint N>
inline void to_numbers(fields<N> codes, uint number, thread float* q) {
#pragma unroll
  for (uint i = 0; i < N; ++i) {
    uint up = number <= 4 ? i % 2 * 8 : 0;
    ushort bits = ushort(codes.words[i / 4] >> (i % 4 * 8 - up) & 255 << up);
    q[i] = low_bits(bits) * byte_unit(up) - float(number);
  }
}

// q[i] * the returned unit = byte i >> shift & mask; mask << shift fits a byte.
template <uint N, uint ALIGN>
inline float load_codes(device const uint8_t* p, uint shift, uint mask, thread float* q) {
  mask <<= shift;
  if (N % 2 != 0) {
    q[0] = low_bits(p[0] & mask);
  } else {
#pragma unroll
    for (uint i = 0; i < N; i += 2) {
      ushort pair =
          ALIGN % 2 == 0 ? ((device const ushort*)p)[i / 2] : ushort(p[i] | p[i + 1] << 8);
      q[i] = low_bits(pair & mask);
      q[i + 1] = low_bits(pair >> 8 & mask);
    }
  }
  return byte_unit(shift);
}

// q[i] = (byte i >> shift & mask) - number.
template <uint N, uint ALIGN>
inline void load_codes(device const uint8_t* p, uint shift, uint mask, uint number,
                       thread float* q) {
  float unit = load_codes<N, ALIGN>(p, shift, mask, q);
#pragma unroll
  for (uint i = 0; i < N; ++i) q[i] = q[i] * unit - float(number);
}

// q[i] = byte i, which is signed.
template <uint N, uint>
inline void load_signed(device const uint8_t* p, thread float* q) {
#pragma unroll
  for (uint i = 0; i < N; ++i) q[i] = float(((device const int8_t*)p)[i]);
}

// q[i] = the table's value for byte i >> shift & 15.
template <uint N, uint ALIGN>
inline void look_up(device const uint8_t* p, uint shift, constant int8_t* table, thread float* q) {
#pragma unroll
  for (uint i = 0; i < N; ++i) {
    uint pair =
        ALIGN % 2 == 0 && N % 2 == 0 ? ((device const ushort*)p)[i / 2] : p[i] << (i % 2 * 8);
    q[i] = float(table[pair >> (i % 2 * 8 + shift) & 15]);
  }
}

// q[i] * the returned unit = twice the e2m1 float in byte i >> shift & 15, of which `table` has the
// values: shift is 0 or 4. In the upper bits of a half it is that float times 2^-14. A code of -0
// gives -0.
template <uint N, uint>
inline float load_e2m1(device const uint8_t* p, uint shift, constant int8_t*, thread float* q) {
#pragma unroll
  for (uint i = 0; i < N; i += 2) {
    uint bytes = as_type<uint>(ushort2(p[i], N > 1 ? p[i + 1] : 0));
    uint halves = (bytes << (9 - shift) & 0x0e000e00) | (bytes << (12 - shift) & 0x80008000);
    q[i] = low_bits(ushort(halves));
    if (N > 1) q[i + 1] = low_bits(ushort(halves >> 16));
  }
  return 32768.0f;
}

// q[i] = word >> Shift::shift(first + i) & mask.
template <uint N, typename Shift>
inline void split(uint word, uint mask, uint first, thread uint* q) {
#pragma unroll
  for (uint i = 0; i < N; ++i) q[i] = word >> Shift::shift(first + i) & mask;
}

// q[i] = the same, less the zero point zero[i].
template <uint N, typename Shift>
inline void split_subtract_zero(uint word, uint mask, uint first, thread const float* zero,
                                thread float* q) {
#pragma unroll
  for (uint i = 0; i < N; ++i) {
    q[i] = field_subtract_zero(word, Shift::shift(first + i), mask, zero[i]);
  }
}

// Loads N words. Where N is a multiple of 4 or 2, the address is aligned to as many words.
template <uint N>
inline void load_words(device const uint* p, thread uint* q) {
#pragma unroll
  for (uint i = 0; i < N; ++i) q[i] = p[i];
}

// Whether load may read wide words. Here it never does.
template <typename T>
inline bool is_aligned(device const T*, uint) {
  return true;
}

// Loads N consecutive values as float. ALIGNED: is_aligned holds for their address.
template <uint N, bool ALIGNED, typename T>
inline void load(device const T* x, thread float* v) {
#pragma unroll
  for (uint i = 0; i < N; ++i) v[i] = float(x[i]);
}

// Stores N consecutive results. The address is aligned to N of them.
template <uint N, typename T, typename V>
inline void store(device T* out, thread const V* w) {
#pragma unroll
  for (uint i = 0; i < N; i += 4) {
    *(device vec<T, 4>*)(out + i) = vec<T, 4>(T(w[i]), T(w[i + 1]), T(w[i + 2]), T(w[i + 3]));
  }
}

// All threads of a threadgroup copy `count` values to threadgroup memory.
template <typename T>
inline void copy_to_threadgroup(device const T* from, uint count, threadgroup T* to,
                                uint thread_index) {
  for (uint i = thread_index; i < count; i += 256) to[i] = from[i];
}

}  // namespace mlx_dequant
