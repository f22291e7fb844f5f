// Runs the threads of a threadgroup in turns, and holds what they share.

#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "fiber.h"
#include "grid.h"
#include "scratch.h"

namespace emulator {

enum class State { kFresh, kReady, kWaiting, kDone };

struct Worker {
  Thread thread;
  State state = State::kFresh;
  std::unique_ptr<Fiber> fiber;
  // Where it waits. A condition holds if it does not wait for other threads.
  Site site = {};
  bool (*ready)(void* what) = nullptr;
  void* what = nullptr;
  // What it gives to the simdgroup, and where it wants the values of all lanes.
  const char* mine = nullptr;
  char* all = nullptr;
};

// A barrier, or a function of a simdgroup: all members come to one site before any goes on.
struct Meeting {
  std::vector<Worker*> members;
  size_t arrived = 0;
  Site site = {};
  unsigned generation = 0;
  char sync[2] = {};
};

class Threadgroup {
 public:
  Threadgroup(const Launch& launch, const std::vector<Thread>& threads, uint32_t* random);
  ~Threadgroup();
  // Returns what went wrong, empty if all threads returned.
  std::string run();

  static const Hooks hooks;

 private:
  static void barrier(Site site, bool whole_threadgroup, bool ordered);
  static void exchange(Site site, const void* mine, size_t bytes, void* all);
  static void* scratch(unsigned id, size_t bytes, size_t most);
  static void wait(Site site, bool (*ready)(void* what), void* what);
  static void** kept(const char* (*drop)(void* kept));
  static const Thread* self();
  static uint32_t lanes();
  static void fail_for(const char* what);
  static void work();

  void meet(Meeting& meeting, Site site, bool ordered, size_t bytes);
  void arrange();
  static bool can_go_on(Worker& worker);
  void step(Worker& worker);
  void end(Worker& worker);
  bool take_next();
  void fail(std::string what);
  // Drops what the program kept. Returns what is wrong with it, null if nothing is.
  const char* drop_kept();
  std::string stuck() const;
  Meeting& simdgroup() { return simdgroups_[current_->thread.simdgroup_index_in_threadgroup]; }

  const Launch& launch_;
  uint32_t* random_;
  std::vector<Worker> workers_;
  Meeting everyone_;
  std::vector<Meeting> simdgroups_;
  std::map<unsigned, Scratch> scratch_;
  void* kept_ = nullptr;
  const char* (*drop_)(void* kept) = nullptr;
  // The threads' turns: who runs, at which place of the sequence, and how many returned.
  std::vector<size_t> sequence_;
  size_t at_ = 0;
  size_t done_ = 0;
  Worker* current_ = nullptr;
  std::vector<std::unique_ptr<Fiber>> idle_;
  std::string error_;
};

}  // namespace emulator
