// What threads have in common: memory, and what each lane of their simdgroup gives.

#pragma once

#include <string.h>

#include "hooks.h"

#define EMULATOR_AT const char *file = __builtin_FILE(), int line = __builtin_LINE()

namespace emulator {

inline const Hooks* hooks;

template <typename T>
inline T& shared(unsigned id) {
  return *(T*)hooks->scratch(id, sizeof(T), 32 * 1024);
}

inline unsigned lane() { return hooks->self()->thread_index_in_simdgroup; }

// What each lane of the simdgroup gave.
template <typename T>
struct Lanes {
  alignas(T) unsigned char bytes[32 * sizeof(T)];
  Lanes(Site site, const T& mine) { hooks->exchange(site, &mine, sizeof(T), bytes); }
  T operator[](unsigned lane) const {
    T value;
    memset((void*)&value, 0xff, sizeof value);
    if (lane < 32) memcpy((void*)&value, bytes + lane * sizeof(T), sizeof value);
    return value;
  }
};

}  // namespace emulator
