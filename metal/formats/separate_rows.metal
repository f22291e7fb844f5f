// For loaders whose rows share nothing that qmv could look up once. compressed_tensors.metal has
// other functions of these names: its neighbouring rows share words of zero points.

#include "scales.metal"

struct no_shared {};

// What R rows, of which `last` is the last that exists, share at a column.
template <typename F, uint R, typename S>
inline no_shared share_rows(thread const S&, uint, uint, uint) {
  return no_shared();
}

// row_codes of row + r.
template <typename F, uint N, typename S>
inline scaling shared_codes(thread const S& loader, thread const no_shared&, uint row, uint r,
                            uint last, uint column, thread float* q) {
  return scaled_by(row_codes<F, N>(loader, min(row + r, last), column, q));
}
