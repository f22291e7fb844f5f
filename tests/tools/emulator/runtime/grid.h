// Executes a grid: threadgroups one after another, the threads of one in turns.

#pragma once

#include <string>

#include "../msl/hooks.h"

namespace emulator {

enum Order { kForward, kReverse, kShuffled, kAhead };

struct Launch {
  Bind bind;
  Body body;
  void* const* buffers;
  const uint32_t* grid;
  const uint32_t* threadgroup;
  Order order;
  uint32_t seed;
  // Subnormal operands and results are zero, as on Apple's GPUs.
  bool flush;
};

// Runs every thread. Returns what went wrong, empty if nothing did.
std::string run(const Launch& launch);

}  // namespace emulator
