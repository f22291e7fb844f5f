// CUDA's C++ on a C++17 compiler: as much of it as the programs here use, as its documentation has
// it. Threads, lanes and shared memory are the runtime's, as on Metal.

#pragma once

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <atomic>
#include <type_traits>

#include "hooks.h"
#include "lanes.h"
#include "narrow.h"

#define __global__ static
#define __device__
#define threadIdx emulator::thread_index()
#define blockIdx emulator::block_index()

typedef metal::narrow<metal::half_code> __half;
typedef metal::narrow<metal::bfloat_code> __nv_bfloat16;

struct uint3 {
  unsigned x, y, z;
};
// A copy of these is a call, whose addresses clang checks; those of plain structs it does not.
struct Copied {
  Copied() {}
  Copied(const Copied&) {}
  Copied& operator=(const Copied&) { return *this; }
};
struct alignas(8) uint2 : Copied {
  unsigned x, y;
};
struct alignas(16) uint4 : Copied {
  unsigned x, y, z, w;
};
struct alignas(8) float2 : Copied {
  float x, y;
};
struct alignas(16) float4 : Copied {
  float x, y, z, w;
};
struct alignas(4) __half2 {
  __half x, y;
};
struct alignas(4) __nv_bfloat162 {
  __nv_bfloat16 x, y;
};

inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {{}, x, y, z, w}; }
inline float2 make_float2(float x, float y) { return {{}, x, y}; }
inline float4 make_float4(float x, float y, float z, float w) { return {{}, x, y, z, w}; }

inline float __half2float(__half value) { return float(value); }
inline __half2 __floats2half2_rn(float x, float y) { return {x, y}; }
inline __half2 __float2half2_rn(float x) { return {x, x}; }
inline __half2 __halves2half2(__half x, __half y) { return {x, y}; }
inline __half __low2half(__half2 pair) { return pair.x; }
inline __half __high2half(__half2 pair) { return pair.y; }
inline __half2 __hsub2(__half2 a, __half2 b) { return {a.x - b.x, a.y - b.y}; }
inline __half2 __hmul2(__half2 a, __half2 b) { return {a.x * b.x, a.y * b.y}; }
inline float __fmaf_rn(float a, float b, float c) { return __builtin_fmaf(a, b, c); }
// Rounded twice, which shows only where the result is no float.
inline __half2 __hfma2(__half2 a, __half2 b, __half2 c) {
  return {__fmaf_rn(a.x, b.x, c.x), __fmaf_rn(a.y, b.y, c.y)};
}
inline __nv_bfloat162 __floats2bfloat162_rn(float x, float y) { return {x, y}; }
inline __half __ushort_as_half(unsigned short bits) {
  __half value;
  value.bits = bits;
  return value;
}

inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline unsigned __umulhi(unsigned x, unsigned y) { return unsigned(uint64_t(x) * y >> 32); }

// Of a shift, the low five bits count.
inline unsigned __funnelshift_r(unsigned low, unsigned high, unsigned shift) {
  return unsigned((uint64_t(high) << 32 | low) >> (shift & 31));
}

// Four of eight bytes, by the low three bits of each nibble of the selector; its fourth bit has no
// meaning, though the instruction below takes it for a sign.
inline unsigned __byte_perm(unsigned x, unsigned y, unsigned selector) {
  uint64_t bytes = uint64_t(y) << 32 | x;
  unsigned result = 0;
  for (unsigned i = 0; i < 4; ++i) {
    result |= unsigned(bytes >> (selector >> 4 * i & 7) * 8 & 0xff) << 8 * i;
  }
  return result;
}

namespace cooperative_groups {}  // namespace cooperative_groups

namespace emulator {

inline uint3 thread_index() {
  const uint32_t* at = hooks->self()->thread_position_in_threadgroup;
  return {at[0], at[1], at[2]};
}

inline uint3 block_index() {
  const uint32_t* at = hooks->self()->threadgroup_position_in_grid;
  return {at[0], at[1], at[2]};
}

// Calls a kernel with buffers for its parameters; braces take them in order.
struct Call {
  template <typename... P>
  Call(void (*kernel)(P...), P... parameters) {
    kernel(parameters...);
  }
};
template <typename... P>
inline void call(void (*kernel)(P...), void* const* buffers) {
  Call{kernel, (P)*buffers++...};
}

}  // namespace emulator

inline void __syncthreads(EMULATOR_AT) {
  emulator::hooks->barrier({"__syncthreads", file, line}, true, true);
}

inline void __syncwarp(EMULATOR_AT) {
  emulator::hooks->barrier({"__syncwarp", file, line}, false, true);
}

template <typename T>
inline T __shfl_xor_sync(unsigned mask, T value, int lanes, EMULATOR_AT) {
  if (mask != 0xffffffff) emulator::hooks->fail("__shfl_xor_sync: expected all lanes");
  emulator::Lanes<T> all({"__shfl_xor_sync", file, line}, value);
  return all[emulator::lane() ^ unsigned(lanes)];
}

#include "shared.h"

#include "instructions.h"
