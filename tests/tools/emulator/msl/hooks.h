// What a kernel and the runtime that executes it know of each other.

#pragma once

#include <stddef.h>
#include <stdint.h>

namespace emulator {

// What Metal tells a thread, by the names of its attributes.
struct Thread {
  uint32_t thread_position_in_grid[3];
  uint32_t threads_per_grid[3];
  uint32_t thread_position_in_threadgroup[3];
  uint32_t threads_per_threadgroup[3];
  uint32_t threadgroup_position_in_grid[3];
  uint32_t threadgroups_per_grid[3];
  uint32_t thread_index_in_threadgroup;
  uint32_t thread_index_in_simdgroup;
  uint32_t simdgroup_index_in_threadgroup;
  uint32_t simdgroups_per_threadgroup;
  uint32_t threads_per_simdgroup;
};

// Where in the source threads meet.
struct Site {
  const char* what;
  const char* file;
  int line;
};

struct Hooks {
  // Waits for the threadgroup, or for the simdgroup; `ordered` if memory is to be consistent after.
  void (*barrier)(Site site, bool whole_threadgroup, bool ordered);
  // all[lane] = what each lane of the simdgroup gave; bits are 1 where there is no such lane.
  void (*exchange)(Site site, const void* mine, size_t bytes, void* all);
  // Threadgroup memory `id`, the same for each thread of a threadgroup, which may have `most` bytes
  // in all; its bits are 1 at first.
  void* (*scratch)(unsigned id, size_t bytes, size_t most);
  // Waits, while others run, until `ready(what)`.
  void (*wait)(Site site, bool (*ready)(void* what), void* what);
  // What a program keeps for the threadgroup: null at first, in the end dropped, which says what is
  // wrong with it, or null.
  void** (*kept)(const char* (*drop)(void* kept));
  // The thread that asks, and how many its simdgroup has.
  const Thread* (*self)();
  uint32_t (*lanes)();
  // Ends the launch.
  void (*fail)(const char* what);
};

typedef void (*Bind)(const Hooks* hooks);
typedef void (*Body)(void* const* buffers, const Thread* thread);

}  // namespace emulator
