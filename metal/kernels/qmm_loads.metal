// The weights of a product of many vectors, unpacked into a simdgroup's registers
//
// A step is 4 * RUN inputs. A simdgroup has 16 outputs, and lane i of it two from 2 * (i / 4) on,
// for RUN inputs from RUN * (i % 4) on: what the platforms' factors are made of. They are unpacked
// in halves: of rows an output each, of columns half of the inputs.

enum { tile_outputs = 128, lane_outputs = 2 };

// The weights of an output, zero where they lie past the matrix.
template <typename F, uint RUN, typename S>
inline void decode_edge(thread const S& loader, uint rows, uint columns, uint row, uint column,
                        thread float* w) {
#pragma unroll
  for (uint i = 0; i < RUN; ++i) w[i] = 0.0f;
  if (row >= rows) return;
#pragma unroll 1
  for (uint k = 0; k < RUN && column + k < columns; ++k) {
    float one[1];
    decode<F, 1>(loader, row, column + k, one);
    // An index that is not constant would put all of w in memory.
#pragma unroll
    for (uint i = 0; i < RUN; ++i) w[i] = i == k ? one[0] : w[i];
  }
}

// How a matrix is read: LAYOUT_KN its rows are the product's inputs, and STORED, the format's.
template <bool LAYOUT_KN, bool STORED>
struct direction {};

// From rows of outputs.
template <typename F, bool WHOLE, uint HALF, uint RUN, bool STORED, typename X, typename S>
inline void load_weights(direction<false, STORED>, thread const S& loader, uint outputs,
                         uint inputs, uint output, uint input, thread workspace<X>&,
                         thread fragment<X, RUN>& weights) {
  if (WHOLE) {
    typename compute_type<X, typename scale_traits<F, S>::type>::type w[RUN];
    decode<F, RUN>(loader, output + HALF, input, w);
    round_to<RUN>(w, HALF, 0, weights);
    return;
  }
  float w[RUN];
  if (output + HALF < outputs && input + RUN <= inputs) {
    decode<F, RUN>(loader, output + HALF, input, w);
  } else {
    decode_edge<F, RUN>(loader, outputs, inputs, output + HALF, input, w);
  }
  round_to<RUN>(w, HALF, 0, weights);
}

template <typename F, uint RUN, bool STORED, typename X, typename S>
inline void prefetch_weights(direction<false, STORED>, thread const S& loader, uint output,
                             uint input, thread workspace<X>&) {
  for (uint i = 0; i < lane_outputs; ++i) prefetch_codes<F>(loader, output + i, input);
}

// From columns of outputs, an even number of them. WHOLE: the inputs are of one group, or in no
// order.
template <typename F, bool WHOLE, uint HALF, uint RUN, typename X, typename S>
inline void load_weights(direction<true, true>, thread const S& loader, uint outputs, uint inputs,
                         uint output, uint input, thread workspace<X>&,
                         thread fragment<X, RUN>& weights) {
  const uint N = lane_outputs;
  const uint R = RUN / 2;
  if (WHOLE && !has_g_idx<F>(loader)) {
    typedef typename compute_type<X, typename scale_traits<F, S>::type>::type V;
    typename S::template group_params<N, V> shared;
    load_group_params<F, N>(loader, group_at<F>(loader, input), output, shared);
    input += HALF * R;
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
  if (WHOLE) {
    input += HALF * R;
#pragma unroll
    for (uint i = 0; i < R; ++i) {
      float pair[N];
      decode<F, N>(loader, input + i, output, pair);
      for (uint k = 0; k < N; ++k) w[k][i] = pair[k];
    }
  } else {
    input += HALF * R;
    // Not a branch for each input, which would wait for its loads alone.
#pragma unroll
    for (uint i = 0; i < R; ++i) {
      float pair[N];
      decode<F, N>(loader, min(input + i, inputs - 1), min(output, outputs - N), pair);
      bool inside = output < outputs && input + i < inputs;
      for (uint k = 0; k < N; ++k) w[k][i] = inside ? pair[k] : 0.0f;
    }
  }
#pragma unroll
  for (uint k = 0; k < N; ++k) round_to<R>(w[k], k, HALF * R, weights);
}

// Eight lanes share out a run of inputs and 16 outputs.
template <typename F, uint RUN, typename X, typename S>
inline void prefetch_weights(direction<true, true>, thread const S& loader, uint output, uint input,
                             thread workspace<X>& space) {
  uint place = space.lane / 4;
  prefetch_codes<F>(loader, input + place / 2 * (RUN / 4),
                    output - place * lane_outputs + place % 2 * 8);
}

// From columns of outputs, though the format has runs of outputs in a row: each lane unpacks one of
// the simdgroup's 16 outputs for an input, and lanes exchange them, eight inputs of each at a time.
template <typename F, bool WHOLE, uint HALF, uint RUN, typename X, typename S>
inline void load_weights(direction<true, false>, thread const S& loader, uint outputs, uint inputs,
                         uint output, uint input, thread workspace<X>& space,
                         thread fragment<X, RUN>& weights) {
  const uint N = lane_outputs;
  const uint R = RUN / 2;
  uint place = space.lane / 4;
  threadgroup X* block = space.exchange + space.lane % 4 * 8 * 16;
  output -= place * N;
  input += HALF * R;
  float w[N][R];
#pragma unroll
  for (uint i = 0; i < R; i += 8) {
    float run[16];
    if (WHOLE || (input + i + place < inputs && output + 16 <= outputs)) {
      decode<F, 16>(loader, input + i + place, output, run);
    } else {
      decode_edge<F, 16>(loader, inputs, outputs, input + i + place, output, run);
    }
    for (uint k = 0; k < 16; ++k) block[place * 16 + k] = X(run[k]);
    simdgroup_barrier(mem_flags::mem_threadgroup);
    for (uint k = 0; k < 8; ++k) {
      for (uint n = 0; n < N; ++n) w[n][i + k] = float(block[k * 16 + place * N + n]);
    }
    simdgroup_barrier(mem_flags::mem_threadgroup);
  }
#pragma unroll
  for (uint n = 0; n < N; ++n) round_to<R>(w[n], n, HALF * R, weights);
}

template <typename F, uint RUN, typename X, typename S>
inline void prefetch_weights(direction<true, false>, thread const S&, uint, uint,
                             thread workspace<X>&) {}
