// 16 floats as one vector, loaded from and stored to unaligned addresses.

typedef float lanes __attribute__((vector_size(64)));

inline lanes load_lanes(const float* from) {
  lanes result;
  memcpy(&result, from, sizeof result);
  return result;
}

inline void store_lanes(float* to, lanes from) { memcpy(to, &from, sizeof from); }
