// Converts from and to every number, as the real one does: half * float is ambiguous.
#pragma once

#include <cuda_runtime.h>

struct __half {
  __half() = default;
  __half(float);
  __half(double);
  __half(int);
  __half(unsigned);
  operator float() const;
  explicit operator int() const;
  explicit operator unsigned() const;

 private:
  unsigned short bits;
};
__half operator+(__half, __half);
__half operator-(__half, __half);
__half operator*(__half, __half);
__half operator/(__half, __half);
bool operator<(__half, __half);
bool operator==(__half, __half);

struct __half2 {
  __half x, y;
};

float __half2float(__half);
__half2 __floats2half2_rn(float, float);
__half2 __float2half2_rn(float);
__half2 __halves2half2(__half, __half);
__half __low2half(__half2);
__half __high2half(__half2);
__half2 __hsub2(__half2, __half2);
__half2 __hmul2(__half2, __half2);
__half2 __hfma2(__half2, __half2, __half2);
__half __float2half(float);
__half __float2half_rn(float);
__half __ushort_as_half(unsigned short);
unsigned short __half_as_ushort(__half);
