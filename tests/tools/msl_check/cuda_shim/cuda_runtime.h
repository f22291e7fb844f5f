// The part of CUDA's language and library that the programs use, as declarations.
#pragma once

#define __global__ __attribute__((global))
#define __device__ __attribute__((device))
#define __launch_bounds__(...)
#define __host__ __attribute__((host))
#define __shared__ __attribute__((shared))
#define __constant__ __attribute__((constant))
#define __grid_constant__
#define __align__(bytes) __attribute__((aligned(bytes)))

typedef unsigned long size_t;
typedef signed char int8_t;
typedef short int16_t;
typedef int int32_t;
typedef long int64_t;
typedef unsigned char uint8_t;
typedef unsigned short uint16_t;
typedef unsigned int uint32_t;
typedef unsigned long uint64_t;

struct uint2 {
  unsigned x, y;
};
struct uint3 {
  unsigned x, y, z;
};
struct uint4 {
  unsigned x, y, z, w;
};
struct float2 {
  float x, y;
};
struct float4 {
  float x, y, z, w;
};
typedef uint3 dim3;

// NVRTC's --device-as-default-execution-space
#pragma clang force_cuda_host_device begin

extern const __device__ uint3 threadIdx, blockIdx;
extern const __device__ dim3 blockDim, gridDim;

uint2 make_uint2(unsigned, unsigned);
uint4 make_uint4(unsigned, unsigned, unsigned, unsigned);
float2 make_float2(float, float);
float4 make_float4(float, float, float, float);

void __syncwarp(unsigned mask = 0xffffffff);
size_t __cvta_generic_to_shared(const void*);
template <typename T>
T __shfl_sync(unsigned mask, T value, int lane, int width = 32);
template <typename T>
T __shfl_xor_sync(unsigned mask, T value, int lanes, int width = 32);
template <typename T>
T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32);

int __popc(unsigned);
int __clz(int);
int __ffs(int);
float __uint_as_float(unsigned);
unsigned __float_as_uint(float);
unsigned __byte_perm(unsigned, unsigned, unsigned);
unsigned __umulhi(unsigned, unsigned);
unsigned __funnelshift_r(unsigned, unsigned, unsigned);
float fmaf(float, float, float);
float __fmaf_rn(float, float, float);
template <typename T>
T __ldg(const T*);
