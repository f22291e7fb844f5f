#include "grid.h"

#include <stdio.h>

#include <algorithm>
#include <vector>

#include "flush.h"
#include "threadgroup.h"

namespace emulator {

namespace {

struct Index {
  uint32_t x, y, z;
};

void set(uint32_t (&to)[3], uint32_t x, uint32_t y, uint32_t z) {
  to[0] = x;
  to[1] = y;
  to[2] = z;
}

// The threads of a threadgroup; at the grid's edges it is smaller.
std::vector<Thread> threads(const Launch& launch, const uint32_t* groups, Index at) {
  const uint32_t* size = launch.threadgroup;
  const uint32_t* grid = launch.grid;
  uint32_t wide = std::min(size[0], grid[0] - at.x * size[0]);
  uint32_t high = std::min(size[1], grid[1] - at.y * size[1]);
  uint32_t deep = std::min(size[2], grid[2] - at.z * size[2]);
  uint32_t count = wide * high * deep;
  std::vector<Thread> all(count);
  for (uint32_t i = 0; i < count; ++i) {
    uint32_t x = i % wide;
    uint32_t y = i / wide % high;
    uint32_t z = i / wide / high;
    Thread& t = all[i];
    set(t.thread_position_in_grid, at.x * size[0] + x, at.y * size[1] + y, at.z * size[2] + z);
    set(t.threads_per_grid, grid[0], grid[1], grid[2]);
    set(t.thread_position_in_threadgroup, x, y, z);
    set(t.threads_per_threadgroup, wide, high, deep);
    set(t.threadgroup_position_in_grid, at.x, at.y, at.z);
    set(t.threadgroups_per_grid, groups[0], groups[1], groups[2]);
    t.thread_index_in_threadgroup = i;
    t.thread_index_in_simdgroup = i % 32;
    t.simdgroup_index_in_threadgroup = i / 32;
    t.simdgroups_per_threadgroup = (count + 31) / 32;
    t.threads_per_simdgroup = 32;
  }
  return all;
}

}  // namespace

std::string run(const Launch& launch) {
  FlushSubnormals flush(launch.flush);
  launch.bind(&Threadgroup::hooks);
  uint32_t groups[3];
  uint64_t total = 1;
  for (int i = 0; i < 3; ++i) {
    groups[i] = (launch.grid[i] + launch.threadgroup[i] - 1) / launch.threadgroup[i];
    total *= groups[i];
  }
  uint32_t random = launch.seed;
  std::vector<uint64_t> sequence(total);
  for (uint64_t i = 0; i < total; ++i) sequence[i] = launch.order == kReverse ? total - 1 - i : i;
  for (uint64_t i = total; launch.order == kShuffled && i > 1; --i) {
    random = random * 1664525 + 1013904223;
    std::swap(sequence[i - 1], sequence[(random >> 8) % i]);
  }
  for (uint64_t i : sequence) {
    Index at = {uint32_t(i % groups[0]), uint32_t(i / groups[0] % groups[1]),
                uint32_t(i / groups[0] / groups[1])};
    std::string error = Threadgroup(launch, threads(launch, groups, at), &random).run();
    if (!error.empty()) return "threadgroup " + std::to_string(i) + ": " + error;
  }
  return "";
}

}  // namespace emulator

// For ctypes. Returns 0, or 1 with what went wrong in `message`.
extern "C" int emulator_launch(emulator::Bind bind, emulator::Body body, void* const* buffers,
                               const uint32_t* grid, const uint32_t* threadgroup, int order,
                               uint32_t seed, int flush, char* message, size_t bytes) {
  emulator::Launch launch = {bind, body,       buffers, grid, threadgroup, emulator::Order(order),
                             seed, bool(flush)};
  std::string error = emulator::run(launch);
  snprintf(message, bytes, "%s", error.c_str());
  return !error.empty();
}
