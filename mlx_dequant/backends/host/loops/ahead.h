// Memory is asked for weights before their turn: by itself, none is beyond the end of a page.

enum { AHEAD = 6 };  // rows of W, where a product goes along them

// Asks for 32 weights.
template <typename F, typename S>
inline void ask_for(const S& loader, uint row, uint column) {
  __builtin_prefetch(codes_at<F>(loader, row, column));
}
