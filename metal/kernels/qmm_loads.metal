// Decodes the weights of qmm into a simdgroup's fragments
//
// A step is 4 * TK inputs. A simdgroup has 16 outputs. Its lane i decodes two of them, from output
// 2 * (i / 4) on, for the TK inputs from TK * (i % 4) on. HALF selects half of these weights: one
// of the two outputs where stored rows are outputs, TK / 2 of the inputs where stored columns are.

enum { block_outputs = 128, lane_outputs = 2 };

// TK weights of a row, with zeros past the edge of the matrix.
template <typename F, uint TK, typename S>
inline void decode_edge(thread const S& loader, uint rows, uint columns, uint row, uint column,
                        thread float* w) {
#pragma unroll
  for (uint i = 0; i < TK; ++i) w[i] = 0.0f;
  if (row >= rows) return;
#pragma unroll 1
  for (uint k = 0; k < TK && column + k < columns; ++k) {
    float value[1];
    decode<F, 1>(loader, row, column + k, value);
    // An index that is not constant would put all of w in memory.
#pragma unroll
    for (uint i = 0; i < TK; ++i) w[i] = i == k ? value[0] : w[i];
  }
}

// How qmm reads a matrix. KN: the stored rows are the product's inputs. STORED_KN: the format's own
// layout is KN.
template <bool KN, bool STORED_KN>
struct direction {};

// Stored rows are outputs.
template <typename F, bool WHOLE, uint HALF, uint TK, bool STORED_KN, typename X, typename S>
inline void load_weights(direction<false, STORED_KN>, thread const S& loader, uint outputs,
                         uint inputs, uint output, uint input, thread workspace<X>&,
                         thread weight_fragment<X, TK>& weights) {
  if (WHOLE) {
    typename compute_type<X, typename scale_traits<F, S>::type>::type w[TK];
    decode<F, TK>(loader, output + HALF, input, w);
    round_to<TK>(w, HALF, 0, weights);
    return;
  }
  float w[TK];
  if (output + HALF < outputs && input + TK <= inputs) {
    decode<F, TK>(loader, output + HALF, input, w);
  } else {
    decode_edge<F, TK>(loader, outputs, inputs, output + HALF, input, w);
  }
  round_to<TK>(w, HALF, 0, weights);
}

// Stored columns are outputs, an even number of them, and the format has layout KN. WHOLE: the
// inputs are of one group, or each looks up its group.
template <typename F, bool WHOLE, uint HALF, uint TK, typename X, typename S>
inline void load_weights(direction<true, true>, thread const S& loader, uint outputs, uint inputs,
                         uint output, uint input, thread workspace<X>&,
                         thread weight_fragment<X, TK>& weights) {
  const uint N = lane_outputs;
  const uint R = TK / 2;
  input += HALF * R;
  if (WHOLE && !has_g_idx<F>(loader)) {
    typedef typename compute_type<X, typename scale_traits<F, S>::type>::type V;
    typename S::template group_params<N, V> shared;
    load_group_params<F, N>(loader, group_at<F>(loader, input), output, shared);
    V q[R * N];
    codes<F, N, R>(loader, shared, input, output, q);
    V w[N][R];
#pragma unroll
    for (uint i = 0; i < R; ++i) {
      V pair[N];
      apply_scale<N>(shared, q + i * N, pair);
      for (uint k = 0; k < N; ++k) w[k][i] = pair[k];
    }
#pragma unroll
    for (uint k = 0; k < N; ++k) round_to<R>(w[k], k, HALF * R, weights);
    return;
  }
  float w[N][R];
#pragma unroll
  for (uint i = 0; i < R; ++i) {
    float pair[N];
    if (WHOLE) {
      decode<F, N>(loader, input + i, output, pair);
      for (uint k = 0; k < N; ++k) w[k][i] = pair[k];
    } else {
      // No branch for each input, so that the loads of all inputs overlap.
      decode<F, N>(loader, min(input + i, inputs - 1), min(output, outputs - N), pair);
      bool inside = output < outputs && input + i < inputs;
      for (uint k = 0; k < N; ++k) w[k][i] = inside ? pair[k] : 0.0f;
    }
  }
#pragma unroll
  for (uint k = 0; k < N; ++k) round_to<R>(w[k], k, HALF * R, weights);
}

// Stored columns are outputs, and the format has layout NK: it decodes neighbours in a row. A lane
// decodes the simdgroup's 16 outputs of one input. Then lanes exchange weights, eight inputs of
// each at a time.
template <typename F, bool WHOLE, uint HALF, uint TK, typename X, typename S>
inline void load_weights(direction<true, false>, thread const S& loader, uint outputs, uint inputs,
                         uint output, uint input, thread workspace<X>& space,
                         thread weight_fragment<X, TK>& weights) {
  const uint N = lane_outputs;
  const uint R = TK / 2;
  uint index = space.lane / 4;
  threadgroup X* block = space.exchange + space.lane % 4 * 8 * 16;
  output -= index * N;
  input += HALF * R;
  float w[N][R];
#pragma unroll
  for (uint i = 0; i < R; i += 8) {
    float values[16];
    if (WHOLE || (input + i + index < inputs && output + 16 <= outputs)) {
      decode<F, 16>(loader, input + i + index, output, values);
    } else {
      decode_edge<F, 16>(loader, inputs, outputs, input + i + index, output, values);
    }
    for (uint k = 0; k < 16; ++k) block[index * 16 + k] = X(values[k]);
    simdgroup_barrier(mem_flags::mem_threadgroup);
    for (uint k = 0; k < 8; ++k) {
      for (uint n = 0; n < N; ++n) w[n][i + k] = float(block[k * 16 + index * N + n]);
    }
    simdgroup_barrier(mem_flags::mem_threadgroup);
  }
#pragma unroll
  for (uint n = 0; n < N; ++n) round_to<R>(w[n], n, HALF * R, weights);
}
