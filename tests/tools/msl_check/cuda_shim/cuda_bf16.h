// As cuda_fp16.h.
#pragma once

#include <cuda_runtime.h>

struct __nv_bfloat16 {
  __nv_bfloat16() = default;
  __nv_bfloat16(float);
  __nv_bfloat16(double);
  __nv_bfloat16(int);
  __nv_bfloat16(unsigned);
  operator float() const;
  explicit operator int() const;
  explicit operator unsigned() const;

 private:
  unsigned short bits;
};
__nv_bfloat16 operator+(__nv_bfloat16, __nv_bfloat16);
__nv_bfloat16 operator-(__nv_bfloat16, __nv_bfloat16);
__nv_bfloat16 operator*(__nv_bfloat16, __nv_bfloat16);
__nv_bfloat16 operator/(__nv_bfloat16, __nv_bfloat16);
bool operator<(__nv_bfloat16, __nv_bfloat16);
bool operator==(__nv_bfloat16, __nv_bfloat16);

struct __nv_bfloat162 {
  __nv_bfloat16 x, y;
};

float __bfloat162float(__nv_bfloat16);
__nv_bfloat162 __floats2bfloat162_rn(float, float);
__nv_bfloat16 __float2bfloat16(float);
__nv_bfloat16 __float2bfloat16_rn(float);
__nv_bfloat16 __ushort_as_bfloat16(unsigned short);
unsigned short __bfloat16_as_ushort(__nv_bfloat16);
