// The weights of steps to come, a pair of steps at a time: asked for ahead or, STAGED, copied to
// threadgroup memory as they are stored, where the platform has room for that.

// W is the window of a weight that a pair takes (formats/strips.metal). Strips that lanes read
// together are of runs: eight outputs, or the inputs of a lane.
template <bool STAGED, bool LAYOUT_KN, typename W>
struct staging {
  enum { strips_of_a_run = LAYOUT_KN ? W::count / 8 : 8 };
};

template <typename F, bool LAYOUT_KN, uint VECTORS, uint RUN, typename S>
struct staging_of {
  typedef typename S::template window<F, LAYOUT_KN ? 8 * RUN : uint(tile_outputs),
                                      LAYOUT_KN ? uint(tile_outputs) : 8 * RUN>
      window;
  // What is read other than as it is stored is not: lanes exchange it in the same memory.
  enum { staged = LAYOUT_KN == bool(S::layout_kn) && stage<VECTORS, window>::fits };
  typedef staging<staged, LAYOUT_KN, window> type;
};

// Asks for a pair's weights, from an input on.
template <typename F, uint RUN, bool LAYOUT_KN, typename W, typename A, typename X, typename S>
inline void bring_weights(staging<false, LAYOUT_KN, W>, A along, thread const S& loader,
                          uint output, uint input, uint, uint thread_index,
                          thread workspace<X>& space) {
  for (uint i = 0; i < 2; ++i) {
    prefetch_weights<F, RUN>(along, loader, output + thread_index / 4 * lane_outputs,
                             input + (i * 4 + thread_index % 4) * RUN, space);
  }
}

template <typename F, uint RUN, bool LAYOUT_KN, typename W, typename A, typename X, typename S>
inline void bring_weights(staging<true, LAYOUT_KN, W> to, A, thread const S& loader, uint output,
                          uint input, uint pair, uint, thread workspace<X>& space) {
  const W window;
  strips from = strips_of<F>(loader, LAYOUT_KN ? input : output, LAYOUT_KN ? output : input);
  copy_strips(space, window, from, pair, to.strips_of_a_run);
}

// Waits until they are there.
template <bool LAYOUT_KN, typename W, typename X>
inline void wait_for_weights(staging<false, LAYOUT_KN, W>, uint, thread workspace<X>&) {}

template <bool LAYOUT_KN, typename W, typename X>
inline void wait_for_weights(staging<true, LAYOUT_KN, W>, uint pair, thread workspace<X>& space) {
  wait_for_strips(space, pair);
}

// Where a lane reads those of a pair's first or second step.
template <typename F, bool LAYOUT_KN, typename W, typename X, typename S>
inline S near_weights(staging<false, LAYOUT_KN, W>, thread const S& loader, uint, uint, uint, uint,
                      uint, thread workspace<X>&) {
  return loader;
}

template <typename F, bool LAYOUT_KN, typename W, typename X, typename S>
inline S near_weights(staging<true, LAYOUT_KN, W>, thread const S& loader, uint output, uint input,
                      uint pair, uint step, uint thread_index, thread workspace<X>& space) {
  const W window;
  uint row = LAYOUT_KN ? input : output;
  uint column = LAYOUT_KN ? output : input;
  uint run = LAYOUT_KN ? step * 4 + thread_index % 4 : thread_index * lane_outputs / 4 / 8;
  strips from = strips_of<F>(loader, row, column);
  return placed<F>(loader, strips_at(space, window, from, pair, run), row, column);
}
