// What surrounds the loops, for any format: types of x, rows of x, experts and threads.

#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <time.h>

#include "../../../metal/platform/cpu.h"

namespace mlx_dequant {

#include "../../../metal/launch_params.metal"
#include "../loops/int8.h"
#include "threads.h"

enum Type { FLOAT32, FLOAT16, BFLOAT16 };
enum {
  ARRAYS = 8,
  ROWS = 256,    // rows of x at a time, so that what is in float32 stays small
  INT8_ROWS = 4  // more are as fast in float32
};

// A matrix and its loops. Python keeps it, with the same fields. For a stack of experts, the arrays
// are the first expert's.
struct Operand {
  LaunchParams params;
  uint transpose;  // whether the product is x @ W.T
  uint count;      // of arrays
  const void* arrays[ARRAYS];
  size_t strides[ARRAYS];  // bytes from an expert to the next
  size_t experts;          // 0 for a single matrix
  Loop* one;               // qmv or qvm: a row of x
  Loop* many;              // qmm_t or qmm; one of the two may be absent
  Loop* int8;              // qmv_int8: a row of x rounded to 8 bits; absent where x is not rounded
};

static size_t inputs(const Operand& w) { return w.transpose ? w.params.columns : w.params.rows; }
static size_t outputs(const Operand& w) { return w.transpose ? w.params.rows : w.params.columns; }
static size_t size_of(Type type) { return type == FLOAT32 ? 4 : 2; }

template <typename T>
static void widen(const void* from, size_t count, float* to) {
  const T* x = (const T*)from;
  size_t i = 0;
  for (; i + 32 <= count; i += 32) load<32, false>(x + i, to + i);
  for (; i < count; ++i) to[i] = float(x[i]);
}

static void widen(Type type, const void* from, size_t count, float* to) {
  if (type == FLOAT32) memcpy(to, from, count * sizeof(float));
  if (type == FLOAT16) widen<float16_t>(from, count, to);
  if (type == BFLOAT16) widen<bfloat16_t>(from, count, to);
}

template <typename T>
static void round_to(const float* from, size_t count, void* to) {
  T* out = (T*)to;
  size_t i = 0;
  for (; i + 32 <= count; i += 32) store<32>(out + i, from + i);
  for (; i < count; ++i) out[i] = T(from[i]);
}

static void round_to(Type type, const float* from, size_t count, void* to) {
  if (type == FLOAT32) memcpy(to, from, count * sizeof(float));
  if (type == FLOAT16) round_to<float16_t>(from, count, to);
  if (type == BFLOAT16) round_to<bfloat16_t>(from, count, to);
}

typedef int8_t narrow __attribute__((vector_size(LANES)));

// Rounds a row of x, 32 elements by their largest magnitude. Returns whether all are finite.
static bool round_row(const float* x, size_t count, Rounded* out) {
  for (size_t i = 0; i < count; i += 32, ++out) {
    uint top = 0;
    for (uint j = 0; j < 32; ++j) {
      const uint magnitude = as_type<uint>(x[i + j]) & 0x7fffffff;
      top = magnitude > top ? magnitude : top;
    }
    if (top >= 0x7f800000) return false;
    out->scale = as_type<float>(top) / 127;
    const float step = out->scale > 0 ? out->scale : 1;
    for (uint half = 0; half < 2; ++half) {
      ints total = {};
      for (uint j = 16 * half; j < 16 * half + 16; j += LANES) {
        floats value;
        memcpy(&value, x + i + j, sizeof value);
        value /= step;
        // A subnormal scale is rounded, perhaps to a much smaller one.
        value = value > 127 ? floats{} + 127 : value;
        value = value < -127 ? floats{} - 127 : value;
        // 1.5 * 2^23, whose low bits are those of the nearest integer that is added.
        const ints nearest = ints(value + 12582912.0f) - 0x4b400000;
        const narrow codes = __builtin_convertvector(nearest, narrow);
        memcpy(out->q + j, &codes, sizeof codes);
        total += nearest;
      }
      int sum = 0;
      for (uint j = 0; j < LANES; ++j) sum += total[j];
      out->total[half] = float(sum);
    }
  }
  return true;
}

// out[M, outputs] = x[M, inputs] times a matrix, or an expert of a stack. `rounded` has room for a
// row of x.
static void multiply(const Operand& w, size_t expert, const float* x, size_t M, float* out,
                     Rounded* rounded, uint threads) {
  void* arrays[ARRAYS + 2];
  for (uint i = 0; i < w.count; ++i) {
    arrays[i] = (void*)((const char*)w.arrays[i] + expert * w.strides[i]);
  }
  arrays[w.count] = (void*)x;
  arrays[w.count + 1] = out;
  LaunchParams params = w.params;
  params.M = uint(M);
  const double weights = double(inputs(w)) * double(outputs(w));
  const size_t steps = w.transpose ? outputs(w) : (outputs(w) + 31) / 32;
  const bool rounds = w.int8 && M <= INT8_ROWS;
  if (!w.many || (M == 1 && w.one) || rounds) {
    for (size_t m = 0; m < M; ++m) {
      const float* row = x + m * inputs(w);
      // A row with NaN or infinities gives what it gives in float32.
      const bool int8 = rounds && round_row(row, inputs(w), rounded);
      arrays[w.count] = int8 ? (void*)rounded : (void*)row;
      arrays[w.count + 1] = out + m * outputs(w);
      share(int8 ? w.int8 : w.one, arrays, params, steps, 1, weights, threads);
    }
    return;
  }
  memset(out, 0, M * outputs(w) * sizeof(float));
  // Dequantizing takes about as long as eight rows of x. Tiles of W.T have 3 or 4 rows.
  share(w.many, arrays, params, steps, w.transpose ? 12 : 1, weights * double(M + 8), threads);
}

// Memory for values, kept until the end of the scope.
template <typename T>
struct Memory {
  T* values;
  explicit Memory(size_t count) : values((T*)malloc((count ? count : 1) * sizeof(T))) {}
  ~Memory() { free(values); }
};

// out[M, outputs] = x[M, inputs] times a matrix. Returns 0, or 1 if there is no memory.
extern "C" int product(const Operand* w, int type, const void* x, size_t M, void* out,
                       uint threads) {
  const size_t K = inputs(*w), N = outputs(*w), width = size_of(Type(type));
  const size_t step = M < ROWS ? M : size_t(ROWS);
  const bool exact = type == FLOAT32;
  Memory<float> from(exact ? 0 : step * K), to(exact ? 0 : step * N);
  Memory<Rounded> rounded(w->int8 ? K / 32 : 0);
  if (!from.values || !to.values || !rounded.values) return 1;
  for (size_t row = 0; row < M; row += step) {
    const size_t rows = M - row < step ? M - row : step;
    const char* source = (const char*)x + row * K * width;
    char* target = (char*)out + row * N * width;
    if (exact) {
      multiply(*w, 0, (const float*)source, rows, (float*)target, rounded.values, threads);
      continue;
    }
    widen(Type(type), source, rows * K, from.values);
    multiply(*w, 0, from.values, rows, to.values, rounded.values, threads);
    round_to(Type(type), to.values, rows * N, target);
  }
  return 0;
}

// out[pairs, outputs]: row i / choices of x times the expert ids[i] of a stack; NaN for one out of
// range. Returns 0, or 1 if there is no memory.
extern "C" int expert_product(const Operand* w, int type, const void* x, const int* ids,
                              size_t pairs, size_t choices, void* out, uint threads) {
  const size_t K = inputs(*w), N = outputs(*w), width = size_of(Type(type));
  Memory<float> from(ROWS * K), to(ROWS * N);
  Memory<Rounded> rounded(w->int8 ? K / 32 : 0);
  size_t* order = (size_t*)malloc((pairs + 1) * sizeof(size_t));
  size_t* first = (size_t*)calloc(w->experts + 2, sizeof(size_t));
  const bool room = from.values && to.values && rounded.values && order && first;
  if (room) {
    // Pairs by expert, those out of range last.
    const auto place = [&](size_t i) {
      const long id = ids[i] < 0 ? long(ids[i]) + long(w->experts) : long(ids[i]);
      return id < 0 || id >= long(w->experts) ? w->experts : size_t(id);
    };
    for (size_t i = 0; i < pairs; ++i) ++first[place(i) + 1];
    for (size_t e = 0; e <= w->experts; ++e) first[e + 1] += first[e];
    for (size_t i = 0; i < pairs; ++i) order[first[place(i)]++] = i;
    size_t at = 0;
    for (size_t e = 0; e <= w->experts; ++e) {
      while (at < first[e]) {
        const size_t rows = first[e] - at < ROWS ? first[e] - at : size_t(ROWS);
        for (size_t i = 0; e < w->experts && i < rows; ++i) {
          const char* source = (const char*)x + order[at + i] / choices * K * width;
          widen(Type(type), source, K, from.values + i * K);
        }
        if (e < w->experts) {
          multiply(*w, e, from.values, rows, to.values, rounded.values, threads);
        }
        for (size_t i = 0; e == w->experts && i < rows * N; ++i) to.values[i] = __builtin_nanf("");
        for (size_t i = 0; i < rows; ++i) {
          round_to(Type(type), to.values + i * N, N, (char*)out + order[at + i] * N * width);
        }
        at += rows;
      }
    }
  }
  free(order);
  free(first);
  return room ? 0 : 1;
}

// out[count, length] = rows or columns ids[i] of a matrix, by `loop`; NaN for an id out of range.
// Returns 0, or 1 if there is no memory.
extern "C" int look_up(const Operand* w, Loop* loop, int type, const int* ids, size_t count,
                       void* out, uint threads) {
  const long limit = long(inputs(*w));
  const size_t length = outputs(*w), width = size_of(Type(type));
  int* places = (int*)malloc((count + 1) * sizeof(int));
  if (!places) return 1;
  bool inside = true;
  for (size_t i = 0; i < count; ++i) {
    const long id = ids[i] < 0 ? ids[i] + limit : long(ids[i]);
    const bool found = id >= 0 && id < limit;
    places[i] = found ? int(id) : 0;
    inside = inside && found;
  }
  void* arrays[ARRAYS + 2];
  memcpy(arrays, w->arrays, sizeof w->arrays);
  arrays[w->count] = places;
  arrays[w->count + 1] = out;
  share(loop, arrays, w->params, count, 1, double(count) * double(length), threads);
  const float missing = __builtin_nanf("");
  for (size_t i = 0; !inside && i < count; ++i) {
    const long id = ids[i] < 0 ? ids[i] + limit : long(ids[i]);
    char* row = (char*)out + i * length * width;
    for (size_t j = 0; (id < 0 || id >= limit) && j < length; ++j) {
      round_to(Type(type), &missing, 1, row + j * width);
    }
  }
  free(places);
  return 0;
}

// Steps 0 to steps - 1 of a loop over `arrays`, of `weights` weights each.
extern "C" void each_step(Loop* loop, void* const* arrays, const LaunchParams* params, size_t steps,
                          size_t weights, uint threads) {
  share(loop, arrays, *params, steps, 1, double(steps) * double(weights), threads);
}

}  // namespace mlx_dequant
