// Tiles of x and of weights on their way to threadgroup memory, for a product of many vectors
//
// A tile is STEP inputs wide and lies in memory as 8 x 8 blocks, as matrices are loaded: inputs
// side by side, then eight outputs or vectors further. Each thread holds as many octets of it. The
// eight that neighbouring lanes store make one block, so they never meet in a bank.

enum { tile_outputs = 128 };

// COUNT octets, each eight inputs of a vector.
template <uint STEP, uint COUNT, bool WHOLE, typename X>
inline void load_x(device const X* x, uint vectors, uint inputs, uint vector, uint input,
                   uint thread_index, thread octet<X>* part) {
#pragma unroll
  for (uint i = 0; i < COUNT; ++i) {
    uint at = thread_index / 8 + i * 32;
    uint row = min(vector + at / (STEP / 8) * 8 + thread_index % 8, vectors - 1);
    uint column = input + at % (STEP / 8) * 8;
    device const X* from = x + size_t(row) * inputs + column;
    float v[8];
    if (WHOLE) {
      load_octet(from, part[i]);
    } else {
#pragma unroll
      for (uint k = 0; k < 8; ++k) v[k] = column + k < inputs ? float(from[k]) : 0.0f;
      round_octet(v, part[i]);
    }
  }
}

template <uint STEP, uint COUNT, typename X>
inline void store_x(threadgroup X* tile, uint thread_index, thread const octet<X>* part) {
#pragma unroll
  for (uint i = 0; i < COUNT; ++i) store_octet(tile + (thread_index + i * 256) * 8, part[i]);
}

// Weights that lie past the matrix are zero.
template <typename F, uint N, typename S>
inline void decode_edge(thread const S& source, uint rows, uint columns, uint row, uint column,
                        thread float* w) {
#pragma unroll
  for (uint i = 0; i < N; ++i) w[i] = 0.0f;
  if (row >= rows) return;
#pragma unroll 1
  for (uint k = 0; k < N && column + k < columns; ++k) {
    float one[1];
    decode<F, 1>(source, row, column + k, one);
    // An index that is not constant would put all of w in memory.
#pragma unroll
    for (uint i = 0; i < N; ++i) w[i] = i == k ? one[0] : w[i];
  }
}

// A thread's weights of a tile, decoded along the stored rows. They are of the same columns and, in
// a WHOLE tile BY_INPUTS, of the same group: then constants stay from step to step. BY_INPUTS an
// octet is of one input, and its block is turned.
template <bool BY_INPUTS, uint STEP, bool WHOLE, typename X, typename S>
struct weights_along {
  enum { run = BY_INPUTS ? 8 : STEP / 2, runs = (BY_INPUTS ? uint(tile_outputs) : STEP) / run };
  enum { by_inputs = BY_INPUTS, step = STEP, whole = WHOLE, turned = BY_INPUTS };
  typename S::template constants<run> shared;
  uint group;
  octet<X> part[STEP / 16];
};

// The same decoded down the stored columns, in eights of rows that share words and a group.
template <bool BY_INPUTS, uint STEP, typename X, typename S>
struct weights_down {
  enum { across = BY_INPUTS ? uint(tile_outputs) : STEP };
  enum { by_inputs = BY_INPUTS, step = STEP, whole = true, turned = !BY_INPUTS };
  typename S::template constants<1> shared;
  uint group;
  octet<X> part[STEP / 16];
};

// How a whole tile is decoded: DOWN where words pack rows.
template <bool BY_INPUTS, uint STEP, typename X, typename S, bool DOWN>
struct tile_of {
  typedef weights_along<BY_INPUTS, STEP, true, X, S> weights;
};
template <bool BY_INPUTS, uint STEP, typename X, typename S>
struct tile_of<BY_INPUTS, STEP, X, S, true> {
  typedef weights_down<BY_INPUTS, STEP, X, S> weights;
};

template <typename F, bool BY_INPUTS, uint STEP, bool WHOLE, typename X, typename S>
inline void load_weights(thread const S& source, uint rows, uint columns, uint output, uint input,
                         uint thread_index,
                         thread weights_along<BY_INPUTS, STEP, WHOLE, X, S>& held) {
  typedef weights_along<BY_INPUTS, STEP, WHOLE, X, S> part;
  const uint N = part::run;
  static_assert(32 % part::runs == 0, "a thread keeps to its columns");
  uint row = (BY_INPUTS ? input : output) + thread_index / 8 / part::runs * 8 + thread_index % 8;
  uint column = ((BY_INPUTS ? output : input) / N + thread_index / 8 % part::runs) * N;
  if (WHOLE && BY_INPUTS && group_at<F>(source, input) != held.group) {
    held.group = group_at<F>(source, input);
    load_constants<F, N>(source, held.group, column, held.shared);
  }
#pragma unroll
  for (uint i = 0; i < STEP / 16; i += N / 8) {
    float w[N];
    if (WHOLE && BY_INPUTS) {
      codes<F, N, 1>(source, held.shared, row, column, w);
      scaled<N>(held.shared, w, w);
    } else if (WHOLE || (row < rows && column + N <= columns)) {
      decode<F, N>(source, row, column, w);
    } else {
      decode_edge<F, N>(source, rows, columns, row, column, w);
    }
#pragma unroll
    for (uint k = 0; k < N; k += 8) round_octet(w + k, held.part[i + k / 8]);
    row += 32 / part::runs * 8;
  }
}

template <typename F, bool BY_INPUTS, uint STEP, typename X, typename S>
inline void load_weights(thread const S& source, uint, uint, uint output, uint input,
                         uint thread_index, thread weights_down<BY_INPUTS, STEP, X, S>& held) {
  const uint across = weights_down<BY_INPUTS, STEP, X, S>::across;
  uint row = ((BY_INPUTS ? input : output) / 8 + thread_index / across) * 8;
  uint column = (BY_INPUTS ? output : input) + thread_index % across;
  if (BY_INPUTS && group_at<F>(source, input) != held.group) {
    held.group = group_at<F>(source, input);
    load_constants<F, 1>(source, held.group, column, held.shared);
  }
#pragma unroll
  for (uint i = 0; i < STEP / 16; ++i) {
    if (!BY_INPUTS) load_constants<F, 1>(source, group_at<F>(source, row), column, held.shared);
    float w[8];
    codes<F, 1, 8>(source, held.shared, row, column, w);
    for (uint k = 0; k < 8; ++k) scaled<1>(held.shared, w + k, w + k);
    round_octet(w, held.part[i]);
    row += 256 / across * 8;
  }
}

template <bool TURNED, uint STEP, typename X>
inline void store_weight(threadgroup X* tile, uint output, uint input,
                         thread const octet<X>& weights) {
  uint block = output / 8 * (STEP / 8) + input / 8;
  store_octet(tile + block * 64 + (TURNED ? input : output) % 8 * 8, weights);
}

template <bool BY_INPUTS, uint STEP, bool WHOLE, typename X, typename S>
inline void store_weights(threadgroup X* tile, uint thread_index,
                          thread const weights_along<BY_INPUTS, STEP, WHOLE, X, S>& held) {
  typedef weights_along<BY_INPUTS, STEP, WHOLE, X, S> part;
  uint row = thread_index / 8 / part::runs * 8 + thread_index % 8;
  uint column = thread_index / 8 % part::runs * part::run;
#pragma unroll
  for (uint i = 0; i < STEP / 16; ++i) {
    uint at = column + i % (part::run / 8) * 8;
    store_weight<BY_INPUTS, STEP>(tile, BY_INPUTS ? at : row, BY_INPUTS ? row : at, held.part[i]);
    if (i % (part::run / 8) == part::run / 8 - 1) row += 32 / part::runs * 8;
  }
}

template <bool BY_INPUTS, uint STEP, typename X, typename S>
inline void store_weights(threadgroup X* tile, uint thread_index,
                          thread const weights_down<BY_INPUTS, STEP, X, S>& held) {
  const uint across = weights_down<BY_INPUTS, STEP, X, S>::across;
  uint row = thread_index / across * 8;
  uint column = thread_index % across;
#pragma unroll
  for (uint i = 0; i < STEP / 16; ++i) {
    store_weight<!BY_INPUTS, STEP>(tile, BY_INPUTS ? column : row, BY_INPUTS ? row : column,
                                   held.part[i]);
    row += 256 / across * 8;
  }
}
