// A GPU faults where an address is no multiple of what is read or written there. The compiler's
// check of that calls this function, which stands in for its library's.

#ifndef EMULATOR_ADDRESS

#include <stdio.h>

struct MisalignedAccess {
  const char* file;
  uint32_t line, column;
};

extern "C" void __ubsan_handle_type_mismatch_v1(const MisalignedAccess* access, size_t) {
  char what[256];
  snprintf(what, sizeof what, "misaligned address (%s:%u)", access->file, access->line);
  emulator::hooks->fail(what);
}

#endif
