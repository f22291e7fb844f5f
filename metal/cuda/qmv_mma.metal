// out[M, outputs] = x[M, inputs] times a weight of either layout, eight rows of x at a time, by
// matrix units
//
// For float16 or bfloat16 x; BM is 1 or 8. Codes less their zero point are exact in x's type. They
// are multiplied without their scale and accumulated in float32; then the sums are scaled. Four
// lanes share BN outputs and take TK inputs each. These 4 * TK inputs, a chunk, share one scale. A
// threadgroup's eight simdgroups have the same outputs and take turns with the chunks. Chunks divide
// a row of x.

#include "../kernels/x_rows.metal"

// Inputs of x as pairs, as x_rows loads them as float.
template <typename F>
struct x_pairs {
  template <uint N, bool ALIGNED, typename X, typename S>
  static inline void pairs(const S&, const X* x, uint at, uint* pairs) {
    load_half2<N, ALIGNED>(x + at, pairs);
  }
};

template <typename F>
struct x_pairs<permuted_inputs<F>> {
  template <uint N, bool ALIGNED, typename X, typename S>
  static inline void pairs(const S& loader, const X* x, uint at, uint* pairs) {
    uint places[N];
    load_words<N>(address(loader.g_idx, at), places);
    X values[N];
#pragma unroll
    for (uint i = 0; i < N; ++i) values[i] = x[places[i]];
    load_half2<N, false>(values, pairs);
  }
};

// How codes become pairs of halves is PAIRS, a struct of the family's file in views/:
//
//   order_inputs<N>(pairs)             makes pairs of N inputs of x, neighbours, as those of codes are
//   codes<F, N, R>(loader, output, input, by, q)
//                                      N outputs x R inputs as q[R / 2][N] pairs of codes less zero
//                                      points, and what scales the outputs
//   scale                              the type of that: float, or scaling where there may be a min
//
// word_pairs<BITS> takes whole words of codes, neighbour_pairs any codes; neighbours are in a pair.

inline float scale_of(float scale) { return scale; }
inline float scale_of(scaling by) { return by.scale; }

// sum -= mins * the sums of x, where a format has mins.
template <typename F, uint BN, uint COUNT, uint V, typename X>
inline void subtract_mins(const float (&)[BN], const uint (&)[COUNT], float (*)[V], X) {}

template <typename F, uint BN, uint COUNT, uint V, typename X>
inline void subtract_mins(const scaling (&by)[BN], const uint (&x)[COUNT], float (*sum)[V],
                          X type) {
  if (!has_min<F>::value) return;
  float all[4];
  sum_half2(x, all, type);
#pragma unroll
  for (uint i = 0; i < BN; ++i) {
#pragma unroll
    for (uint k = 0; k < V; ++k) sum[i][k] -= by[i].min * all[k];
  }
}

// Adds the chunks at inputs begin, begin + stride ... to `sum`, for V rows of x. `input` is this
// lane's first input of a chunk.
template <typename F, uint BN, uint TK, uint V, typename PAIRS, bool ALIGNED, typename X,
          typename S>
inline void add_chunks(const S& loader, const X* x, uint output, uint input, uint begin,
                       uint stride, uint inputs, float (*sum)[V]) {
  const uint step = S::layout_kn ? BN : 2;  // outputs decoded at once
  for (uint at = begin; at < inputs; at += stride) {
    uint v[TK / 2];
    typename PAIRS::scale by[BN];
    float part[BN / 2][4];
    x_pairs<F>::template pairs<TK, ALIGNED>(loader, x, at + input, v);
    PAIRS::template order_inputs<TK>(v);
#pragma unroll
    for (uint i = 0; i < BN / 2; ++i) {
#pragma unroll
      for (uint k = 0; k < 4; ++k) part[i][k] = 0.0f;
    }
#pragma unroll
    for (uint i = 0; i < BN; i += step) {
      uint q[TK / 2 * step];
      PAIRS::template codes<F, step, TK>(loader, output + i, at + input, by + i, q);
      convert_half2(q, X());
      multiply_half2<step, TK>(q, v, part + i / 2, X());
    }
#pragma unroll
    for (uint i = 0; i < BN; ++i) {
#pragma unroll
      for (uint k = 0; k < V; ++k) sum[i][k] += scale_of(by[i]) * part[i / 2][i % 2 * 2 + k];
    }
    subtract_mins<F>(by, v, sum, X());
  }
}

template <typename F, typename T, uint BM, uint BN, uint TK, typename PAIRS, typename X, typename S>
inline void qmv_mma(const S& loader, const X* x, T* out, const LaunchParams& p, float* scratch,
                    uint threadgroup_index, uint thread_index) {
  const uint V = BM == 1 ? 1 : 2;  // rows of x that a lane accumulates
  const uint deep = 8;
  const uint across = 8 * BN;
  const uint chunk = 4 * TK;
  uint inputs = S::layout_kn ? p.rows : p.columns;
  uint outputs = S::layout_kn ? p.columns : p.rows;
  uint passes = (p.M + 7) / 8;
  uint first_x = threadgroup_index % passes * 8;
  uint M = p.M - first_x;
  x += size_t(first_x) * inputs;
  out += size_t(first_x) * outputs;
  uint first = threadgroup_index / passes * across;
  uint lane = thread_index % 32;
  // Every lane must take part in mma.sync. Lanes past the end repeat outputs that other lanes
  // store.
  uint lane_output = lane / 4 * BN;
  uint output = min(first + lane_output, outputs - BN);
  uint input = lane % 4 * TK;

  float sum[BN][V];
#pragma unroll
  for (uint i = 0; i < BN; ++i) {
#pragma unroll
    for (uint k = 0; k < V; ++k) sum[i][k] = 0.0f;
  }
  uint share = thread_index / 32;
  const X* lane_x = x + size_t(BM == 1 ? 0 : min(lane / 4, M - 1)) * inputs;
  if (is_aligned(x, inputs)) {
    add_chunks<F, BN, TK, V, PAIRS, true>(loader, lane_x, output, input, share * chunk,
                                          deep * chunk, inputs, sum);
  } else {
    add_chunks<F, BN, TK, V, PAIRS, false>(loader, lane_x, output, input, share * chunk,
                                           deep * chunk, inputs, sum);
  }

#pragma unroll
  for (uint m = 0; m < BM; ++m) {
    if (lane % 4 == m / 2) {
      for (uint i = 0; i < BN; ++i) {
        if (output + i < first + lane_output) continue;
        scratch[share * across + output + i - first] = sum[i][m % V];
      }
    }
    threadgroup_barrier(mem_flags::mem_threadgroup);
    if (thread_index < across) {
      float total = 0.0f;
      for (uint i = 0; i < deep; ++i) total += scratch[i * across + thread_index];
      if (m < M && first + thread_index < outputs) {
        out[size_t(m) * outputs + first + thread_index] = T(total);
      }
    }
    threadgroup_barrier(mem_flags::mem_threadgroup);
  }
}
