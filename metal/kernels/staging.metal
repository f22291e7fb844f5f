// The weights of steps to come, a pair of steps at a time: asked for ahead or, STAGED, copied to
// threadgroup memory as they are stored, where the prelude has room for that.

// W is the window of a weight that a pair takes (formats/strips.metal). Strips that lanes read
// together are of runs: eight outputs, or the inputs of a lane.
template <bool STAGED, bool BY_INPUTS, typename W>
struct staging {
  enum { strips_of_a_run = BY_INPUTS ? W::count / 8 : 8 };
};

template <typename F, bool BY_INPUTS, uint VECTORS, uint RUN, typename S>
struct staging_of {
  typedef typename S::template window<F, BY_INPUTS ? 8 * RUN : uint(tile_outputs),
                                      BY_INPUTS ? uint(tile_outputs) : 8 * RUN>
      window;
  // What is read other than as it is stored is not: lanes exchange it in the same memory.
  enum { staged = BY_INPUTS == bool(S::by_inputs) && stage<VECTORS, window>::fits };
  typedef staging<staged, BY_INPUTS, window> type;
};

// Asks for a pair's weights, from an input on.
template <typename F, uint RUN, bool BY_INPUTS, typename W, typename A, typename X, typename S>
inline void bring_weights(staging<false, BY_INPUTS, W>, A along, thread const S& source,
                          uint output, uint input, uint, uint thread_index,
                          thread workspace<X>& space) {
  for (uint i = 0; i < 2; ++i) {
    prefetch_weights<F, RUN>(along, source, output + thread_index / 4 * lane_outputs,
                             input + (i * 4 + thread_index % 4) * RUN, space);
  }
}

template <typename F, uint RUN, bool BY_INPUTS, typename W, typename A, typename X, typename S>
inline void bring_weights(staging<true, BY_INPUTS, W> to, A, thread const S& source, uint output,
                          uint input, uint pair, uint, thread workspace<X>& space) {
  const W window;
  strips from = strips_of<F>(source, BY_INPUTS ? input : output, BY_INPUTS ? output : input);
  copy_strips(space, window, from, pair, to.strips_of_a_run);
}

// Waits until they are there.
template <bool BY_INPUTS, typename W, typename X>
inline void wait_for_weights(staging<false, BY_INPUTS, W>, uint, thread workspace<X>&) {}

template <bool BY_INPUTS, typename W, typename X>
inline void wait_for_weights(staging<true, BY_INPUTS, W>, uint pair, thread workspace<X>& space) {
  wait_for_strips(space, pair);
}

// Where a lane reads those of a pair's first or second step.
template <typename F, bool BY_INPUTS, typename W, typename X, typename S>
inline S near_weights(staging<false, BY_INPUTS, W>, thread const S& source, uint, uint, uint, uint,
                      uint, thread workspace<X>&) {
  return source;
}

template <typename F, bool BY_INPUTS, typename W, typename X, typename S>
inline S near_weights(staging<true, BY_INPUTS, W>, thread const S& source, uint output, uint input,
                      uint pair, uint step, uint thread_index, thread workspace<X>& space) {
  const W window;
  uint row = BY_INPUTS ? input : output;
  uint column = BY_INPUTS ? output : input;
  uint run = BY_INPUTS ? step * 4 + thread_index % 4 : thread_index * lane_outputs / 4 / 8;
  strips from = strips_of<F>(source, row, column);
  return placed<F>(source, strips_at(space, window, from, pair, run), row, column);
}
