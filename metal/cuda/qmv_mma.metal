// out[splits, vectors, outputs] = x[vectors, inputs] times a weight of either layout, by matrices
//
// For platforms that have pairs, x of two bytes and float16 scales, and up to eight vectors; M is 1
// or 8. Codes less their zero point are multiplied as they are, exact in x's type, and added up in
// float32; sums are scaled. Four lanes share OUTPUTS outputs and take RUN inputs each, all of which
// have one scale; two simdgroups lie side by side. The inputs go round in such chunks over the four
// of each of `splits` threadgroups; who asks for more than one adds them up.

// Adds chunks begin, begin + stride ... to `sum`, of V vectors. x is where this lane has its
// inputs.
template <typename F, uint N, uint RUN, uint V, bool ALIGNED, typename X, typename S>
inline void add_chunks(thread const S& loader, device const X* x, uint output, uint input,
                       uint begin, uint stride, uint inputs, thread float (*sum)[V]) {
  const uint K = S::layout_kn ? N : 2;  // outputs that are unpacked together
  for (uint at = begin; at + 4 * RUN <= inputs; at += stride) {
    uint v[RUN / 2];
    scaling by[N];
    float part[N / 2][4];
    load_half2<RUN, ALIGNED>(x + at, v);
    to_pair_stride<RUN, S::template pairs<F, RUN>::apart>(v);
#pragma unroll
    for (uint i = 0; i < N / 2; ++i) {
#pragma unroll
      for (uint k = 0; k < 4; ++k) part[i][k] = 0.0f;
    }
#pragma unroll
    for (uint i = 0; i < N; i += K) {
      uint q[RUN / 2 * K];
      half2_codes<F, K, RUN>(loader, output + i, at + input, by + i, q);
      convert_half2(q, X());
      multiply_half2<K, RUN>(q, v, part + i / 2, X());
    }
#pragma unroll
    for (uint i = 0; i < N; ++i) {
#pragma unroll
      for (uint k = 0; k < V; ++k) sum[i][k] += by[i].scale * part[i / 2][i % 2 * 2 + k];
    }
    if (has_min<F>::value) {
      float all[4];
      sum_half2(v, all, X());
#pragma unroll
      for (uint i = 0; i < N; ++i) {
#pragma unroll
        for (uint k = 0; k < V; ++k) sum[i][k] -= by[i].min * all[k];
      }
    }
  }
}

template <typename F, typename T, uint M, uint OUTPUTS, uint RUN, typename X, typename S>
inline void qmv_mma(thread const S& loader, device const X* x, device T* out,
                    device const uint* sizes, threadgroup float* scratch, uint threadgroup_index,
                    uint thread_index) {
  const uint N = OUTPUTS;
  const uint V = M == 1 ? 1 : 2;  // of a lane
  const uint wide = 2;
  const uint deep = 8 / wide;
  const uint across = wide * 8 * N;
  const uint chunk = 4 * RUN;
  uint inputs = sizes[S::layout_kn ? 0 : 1];
  uint outputs = sizes[S::layout_kn ? 1 : 0];
  uint vectors = sizes[vectors_at];
  uint splits = sizes[splits_at];
  uint split = threadgroup_index % splits;
  uint first = threadgroup_index / splits * across;
  uint lane = thread_index % 32;
  uint simdgroup = thread_index / 32;
  // No lane may miss a product: those past the end repeat outputs that are others' to store.
  uint place = (simdgroup % wide * 8 + lane / 4) * N;
  uint output = min(first + place, outputs - N);
  uint input = lane % 4 * RUN;

  float sum[N][V];
#pragma unroll
  for (uint i = 0; i < N; ++i) {
#pragma unroll
    for (uint k = 0; k < V; ++k) sum[i][k] = 0.0f;
  }
  uint part = split * deep + simdgroup / wide;
  uint parts = splits * deep;
  device const X* mine = x + size_t(M == 1 ? 0 : min(lane / 4, vectors - 1)) * inputs + input;
  if (inputs % 8 == 0 && is_aligned(x)) {
    add_chunks<F, N, RUN, V, true>(loader, mine, output, input, part * chunk, parts * chunk, inputs,
                                   sum);
  } else {
    add_chunks<F, N, RUN, V, false>(loader, mine, output, input, part * chunk, parts * chunk,
                                    inputs, sum);
  }
  for (uint rest = inputs / chunk * chunk + part; rest < inputs; rest += parts) {
    float w[N];
    decode_outputs<F, N>(loader, output, rest, w);
#pragma unroll
    for (uint k = 0; k < V; ++k) {
      uint vector = M == 1 ? 0 : min(lane % 4 * 2 + k, vectors - 1);
      float v = float(x[size_t(vector) * inputs + rest]);
      for (uint i = 0; i < N; ++i) sum[i][k] += w[i] * v;
    }
  }

#pragma unroll
  for (uint m = 0; m < M; ++m) {
    if (lane % 4 == m / 2) {
      for (uint i = 0; i < N; ++i) {
        if (output + i < first + place) continue;
        scratch[simdgroup / wide * across + output + i - first] = sum[i][m % V];
      }
    }
    threadgroup_barrier(mem_flags::mem_threadgroup);
    if (thread_index < across) {
      float total = 0.0f;
      for (uint i = 0; i < deep; ++i) total += scratch[i * across + thread_index];
      if (m < vectors && first + thread_index < outputs) {
        out[(size_t(split) * vectors + m) * outputs + first + thread_index] = T(total);
      }
    }
    threadgroup_barrier(mem_flags::mem_threadgroup);
  }
}
