// The Metal Shading Language on a C++17 compiler: as much of it as the kernels here use.
// Address spaces vanish. The host's fast math, contraction and half precision play no part.

#pragma once

#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <type_traits>

#include "hooks.h"

#define device
#define thread
#define threadgroup
#define constant const

typedef unsigned char uchar;
typedef unsigned short ushort;
typedef unsigned int uint;
typedef unsigned long ulong;

#include "narrow.h"
#include "vec.h"
#include "functions.h"
#include "simd.h"
#include "matrix.h"

using namespace metal;
