// An array of a matrix, or an expert's part of a stack's array, which begins at element `first`.
// Places have 32 bits: a load adds one to a pointer that all threads share.

template <typename T>
struct part {
  device const T* whole;
  uint first;
};

template <typename T>
inline part<T> part_of(device const T* whole, uint first) {
  part<T> result = {whole, first};
  return result;
}

inline part<uint> words_of(part<int> array) {
  return part_of((device const uint*)array.whole, array.first);
}

template <typename T>
inline device const T* address(part<T> array, uint i) {
  return array.whole + (array.first + i);
}
