// simdgroup_matrix: 8 x 8, two neighbours of a row in each lane; sums are kept in float.

namespace metal {

template <typename T, int ROWS, int COLUMNS>
struct simdgroup_matrix {
  static_assert(ROWS == 8 && COLUMNS == 8, "simdgroup matrices are 8 x 8");
  vec<T, 2> pair;
  simdgroup_matrix() = default;
  explicit simdgroup_matrix(T value) : pair(value) {}
  vec<T, 2>& thread_elements() { return pair; }
};

template <typename T, int ROWS, int COLUMNS>
inline simdgroup_matrix<T, ROWS, COLUMNS> make_filled_simdgroup_matrix(T value) {
  return simdgroup_matrix<T, ROWS, COLUMNS>(value);
}

inline uint matrix_row(uint lane) { return (lane >> 2 & 4) + (lane >> 1 & 3); }
inline uint matrix_column(uint lane) { return (lane >> 1 & 4) + (lane & 1) * 2; }
inline uint matrix_lane(uint row, uint column) {
  return (row & 4) << 2 | (column & 4) << 1 | (row & 3) << 1 | (column >> 1 & 1);
}

// The address of element i of this lane's pair.
template <typename T>
inline T* matrix_element(T* base, ulong stride, ulong2 origin, bool transposed, uint i) {
  uint lane = emulator::lane();
  ulong row = matrix_row(lane);
  ulong column = matrix_column(lane) + i;
  base += origin.y * stride + origin.x;
  return transposed ? base + column * stride + row : base + row * stride + column;
}

template <typename T>
inline void simdgroup_load(simdgroup_matrix<T, 8, 8>& m, const T* from, ulong stride = 8,
                           ulong2 origin = ulong2(0), bool transposed = false, EMULATOR_AT) {
  emulator::hooks->barrier({"simdgroup_load", file, line}, false, false);
  for (uint i = 0; i < 2; ++i) m.pair[i] = *matrix_element(from, stride, origin, transposed, i);
}

template <typename T>
inline void simdgroup_store(const simdgroup_matrix<T, 8, 8>& m, T* to, ulong stride = 8,
                            ulong2 origin = ulong2(0), bool transposed = false, EMULATOR_AT) {
  emulator::hooks->barrier({"simdgroup_store", file, line}, false, false);
  for (uint i = 0; i < 2; ++i) *matrix_element(to, stride, origin, transposed, i) = m.pair[i];
}

// d = a * b + c
template <typename D, typename A, typename B, typename C>
inline void simdgroup_multiply_accumulate(simdgroup_matrix<D, 8, 8>& d,
                                          const simdgroup_matrix<A, 8, 8>& a,
                                          const simdgroup_matrix<B, 8, 8>& b,
                                          const simdgroup_matrix<C, 8, 8>& c, EMULATOR_AT) {
  struct Factors {
    vec<A, 2> a;
    vec<B, 2> b;
  };
  Factors mine = {a.pair, b.pair};
  emulator::Lanes<Factors> lanes({"simdgroup_multiply_accumulate", file, line}, mine);
  uint lane = emulator::lane();
  for (uint i = 0; i < 2; ++i) {
    uint row = matrix_row(lane);
    uint column = matrix_column(lane) + i;
    float sum = float(c.pair[i]);
    for (uint k = 0; k < 8; ++k) {
      float left = float(lanes[matrix_lane(row, k)].a[k % 2]);
      float right = float(lanes[matrix_lane(k, column)].b[column % 2]);
      sum += left * right;
    }
    d.pair[i] = D(sum);
  }
}

template <typename D, typename A, typename B>
inline void simdgroup_multiply(simdgroup_matrix<D, 8, 8>& d, const simdgroup_matrix<A, 8, 8>& a,
                               const simdgroup_matrix<B, 8, 8>& b, EMULATOR_AT) {
  simdgroup_multiply_accumulate(d, a, b, simdgroup_matrix<D, 8, 8>(D(0)), file, line);
}

}  // namespace metal

#define MATRIX_NAMES(T) typedef metal::simdgroup_matrix<T, 8, 8> simdgroup_##T##8x8;
MATRIX_NAMES(half)
MATRIX_NAMES(bfloat)
MATRIX_NAMES(float)
#undef MATRIX_NAMES
