// What MLX's header of this name brings into every custom kernel.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#if __has_include(<cuda/std/array>)
#include <cuda/std/array>
#include <cuda/std/complex>
#include <cuda/std/limits>
#include <cuda/std/tuple>
#include <cuda/std/type_traits>
#endif

#define MAX_NDIM 10
#define WARP_SIZE 32

namespace mlx::core::cu {
template <typename T, int N>
struct AlignedVector;
template <typename T>
struct Limits;
}  // namespace mlx::core::cu
