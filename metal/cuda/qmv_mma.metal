// out[split_k, M, outputs] = x[M, inputs] times a weight of either layout for up to eight rows of
// x, by matrix units
//
// For x of two bytes and float16 scales; BM is 1 or 8. Codes less their zero point are multiplied
// as they are, exact in x's type, and accumulated in float32; sums are scaled. Four lanes share BN
// outputs and take TK inputs each, all of which have one scale; two simdgroups lie side by side.
// The inputs go round in such chunks over the four of each of split_k threadgroups; split_k_reduce
// adds them up.

// Adds chunks begin, begin + stride ... to `sum`, of V rows of x. x is where this lane has its
// inputs.
template <typename F, uint BN, uint TK, uint V, bool ALIGNED, typename X, typename S>
inline void add_chunks(const S& loader, const X* x, uint output, uint input, uint begin,
                       uint stride, uint inputs, float (*sum)[V]) {
  const uint together = S::layout_kn ? BN : 2;  // outputs that are decoded together
  for (uint at = begin; at + 4 * TK <= inputs; at += stride) {
    uint v[TK / 2];
    scaling by[BN];
    float part[BN / 2][4];
    load_half2<TK, ALIGNED>(x + at, v);
    to_pair_stride<TK, half2_layout<F, S, TK>::pair_stride>(v);
#pragma unroll
    for (uint i = 0; i < BN / 2; ++i) {
#pragma unroll
      for (uint k = 0; k < 4; ++k) part[i][k] = 0.0f;
    }
#pragma unroll
    for (uint i = 0; i < BN; i += together) {
      uint q[TK / 2 * together];
      half2_codes<F, together, TK>(loader, output + i, at + input, by + i, q);
      convert_half2(q, X());
      multiply_half2<together, TK>(q, v, part + i / 2, X());
    }
#pragma unroll
    for (uint i = 0; i < BN; ++i) {
#pragma unroll
      for (uint k = 0; k < V; ++k) sum[i][k] += by[i].scale * part[i / 2][i % 2 * 2 + k];
    }
    if (has_min<F>::value) {
      float all[4];
      sum_half2(v, all, X());
#pragma unroll
      for (uint i = 0; i < BN; ++i) {
#pragma unroll
        for (uint k = 0; k < V; ++k) sum[i][k] -= by[i].min * all[k];
      }
    }
  }
}

template <typename F, typename T, uint BM, uint BN, uint TK, typename X, typename S>
inline void qmv_mma(const S& loader, const X* x, T* out, const LaunchParams& p, float* scratch,
                    uint threadgroup_index, uint thread_index) {
  const uint V = BM == 1 ? 1 : 2;  // rows of x whose sums a lane has
  const uint wide = 2;
  const uint deep = 8 / wide;
  const uint across = wide * 8 * BN;
  const uint chunk = 4 * TK;
  uint inputs = S::layout_kn ? p.rows : p.columns;
  uint outputs = S::layout_kn ? p.columns : p.rows;
  uint M = p.M;
  uint split = threadgroup_index % p.split_k;
  uint first = threadgroup_index / p.split_k * across;
  uint lane = thread_index % 32;
  uint simdgroup = thread_index / 32;
  // No lane may miss a product: those past the end repeat outputs that are others' to store.
  uint lane_output = (simdgroup % wide * 8 + lane / 4) * BN;
  uint output = min(first + lane_output, outputs - BN);
  uint input = lane % 4 * TK;

  float sum[BN][V];
#pragma unroll
  for (uint i = 0; i < BN; ++i) {
#pragma unroll
    for (uint k = 0; k < V; ++k) sum[i][k] = 0.0f;
  }
  uint part = split * deep + simdgroup / wide;
  uint parts = p.split_k * deep;
  const X* mine = x + size_t(BM == 1 ? 0 : min(lane / 4, M - 1)) * inputs + input;
  if (inputs % 8 == 0 && is_aligned(x)) {
    add_chunks<F, BN, TK, V, true>(loader, mine, output, input, part * chunk, parts * chunk, inputs,
                                   sum);
  } else {
    add_chunks<F, BN, TK, V, false>(loader, mine, output, input, part * chunk, parts * chunk,
                                    inputs, sum);
  }
  for (uint rest = inputs / chunk * chunk + part; rest < inputs; rest += parts) {
    float w[BN];
    decode_outputs<F, BN>(loader, output, rest, w);
#pragma unroll
    for (uint k = 0; k < V; ++k) {
      uint row = BM == 1 ? 0 : min(lane % 4 * 2 + k, M - 1);
      float v = float(x[size_t(row) * inputs + rest]);
      for (uint i = 0; i < BN; ++i) sum[i][k] += w[i] * v;
    }
  }

#pragma unroll
  for (uint m = 0; m < BM; ++m) {
    if (lane % 4 == m / 2) {
      for (uint i = 0; i < BN; ++i) {
        if (output + i < first + lane_output) continue;
        scratch[simdgroup / wide * across + output + i - first] = sum[i][m % V];
      }
    }
    threadgroup_barrier(mem_flags::mem_threadgroup);
    if (thread_index < across) {
      float total = 0.0f;
      for (uint i = 0; i < deep; ++i) total += scratch[i * across + thread_index];
      if (m < M && first + thread_index < outputs) {
        out[(size_t(split) * M + m) * outputs + first + thread_index] = T(total);
      }
    }
    threadgroup_barrier(mem_flags::mem_threadgroup);
  }
}
