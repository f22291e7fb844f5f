// Decodes the weights of qmm into a simdgroup's fragments
//
// A step is 4 * TK inputs. A simdgroup has 16 outputs. Its lane i decodes two of them, from output
// 2 * (i / 4) on, for the TK inputs from TK * (i % 4) on. HALF selects half of these weights: one
// of the two outputs where stored rows are outputs, TK / 2 of the inputs where stored columns are.

#include "edges.metal"

enum { block_outputs = 128, lane_outputs = 2 };

// Weights that a lane decodes at once. Where registers are few, those without a scale in common are
// decoded in turn.
template <typename F, uint N>
struct decoded {
  enum : uint {
    at_once = decoded_at_once,
    count = F::scale_block <= at_once && at_once < N ? at_once : N
  };
};

// Stored rows are outputs.
struct rows_as_outputs {
  template <typename F, bool WHOLE, uint HALF, uint TK, typename X, typename S>
  static inline void fill(thread const S& loader, uint outputs, uint inputs, uint output,
                          uint input, thread workspace<X>& space,
                          thread weight_fragment<X, TK>& weights) {
    typedef typename compute_type<X, typename scale_traits<F, S>::type>::type V;
    const uint N = decoded<F, TK>::count;
    output += HALF;
#pragma unroll 1
    for (uint i = 0; i < TK; i += N) {
      if (WHOLE) {
        V w[N];
        decode<F, N>(loader, output, input + i, w);
        round_to<N>(space, w, HALF, i, weights);
        continue;
      }
      float w[N];
      if (output < outputs && input + i + N <= inputs) {
        decode<F, N>(loader, output, input + i, w);
      } else {
        decode_edge<F, N>(loader, outputs, inputs, output, input + i, w);
      }
      round_to<N>(space, w, HALF, i, weights);
    }
  }
};

// Stored columns are outputs, an even number of them, and the format has layout KN. WHOLE: the
// inputs are of one group.
struct columns_as_outputs {
  template <typename F, bool WHOLE, uint HALF, uint TK, typename X, typename S>
  static inline void fill(thread const S& loader, uint outputs, uint inputs, uint output,
                          uint input, thread workspace<X>& space,
                          thread weight_fragment<X, TK>& weights) {
    const uint N = lane_outputs;
    const uint R = TK / 2;
    input += HALF * R;
    if (WHOLE) {
      typedef typename compute_type<X, typename scale_traits<F, S>::type>::type V;
      typename S::template group_params<N, V> shared;
      load_group_params<F, N>(loader, group_at<F>(loader, input), output, shared);
      V q[R * N];
      group_codes<F, N, R>(loader, shared, input, output, q);
      V w[N][R];
#pragma unroll
      for (uint i = 0; i < R; ++i) {
        V pair[N];
        apply_scale<N>(shared, q + i * N, pair);
        for (uint k = 0; k < N; ++k) w[k][i] = pair[k];
      }
#pragma unroll
      for (uint k = 0; k < N; ++k) round_to<R>(space, w[k], k, HALF * R, weights);
      return;
    }
    float w[N][R];
#pragma unroll
    for (uint i = 0; i < R; ++i) {
      float pair[N];
      // No branch for each input, so that the loads of all inputs overlap.
      decode<F, N>(loader, min(input + i, inputs - 1), min(output, outputs - N), pair);
      bool inside = output < outputs && input + i < inputs;
      for (uint k = 0; k < N; ++k) w[k][i] = inside ? pair[k] : 0.0f;
    }
#pragma unroll
    for (uint k = 0; k < N; ++k) round_to<R>(space, w[k], k, HALF * R, weights);
  }
};

// Stored columns are outputs, and the format has layout NK: it decodes neighbours in a row. A lane
// decodes the simdgroup's 16 outputs of one input, eight inputs of each four lanes at a time.
struct exchanged_columns {
  template <typename F, bool WHOLE, uint HALF, uint TK, typename X, typename S>
  static inline void fill(thread const S& loader, uint outputs, uint inputs, uint output,
                          uint input, thread workspace<X>& space,
                          thread weight_fragment<X, TK>& weights) {
    const uint N = decoded<F, 16>::count;
    const uint first = HALF * TK / 2;
    output -= space.lane / 4 * lane_outputs;
    input += first + space.lane / 4;
#pragma unroll
    for (uint i = 0; i < TK / 2; i += 8) {
#pragma unroll 1
      for (uint k = 0; k < 16; k += N) {
        float w[N];
        if (WHOLE || (input + i < inputs && output + k + N <= outputs)) {
          decode<F, N>(loader, input + i, output + k, w);
        } else {
          decode_edge<F, N>(loader, inputs, outputs, input + i, output + k, w);
        }
        round_columns<N>(space, w, k, first + i, weights);
      }
    }
  }
};
