// The threads of a cluster of threadgroups, and where they meet. Most clusters are one threadgroup.

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

struct Threadgroup;

struct Worker {
  Thread thread;
  Threadgroup* group;
  Threadgroup* visited;
  State state = State::kFresh;
  std::unique_ptr<Fiber> fiber;
  // What it gives to the simdgroup and where it wants all of it.
  Site site = {};
  // Whether it is between the halves of the cluster's barrier, and in which phase it came there.
  bool arrived = false;
  unsigned phase = 0;
  // What it waits for, if not for other threads.
  bool (*ready)(void* what) = nullptr;
  void* what = nullptr;
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

struct Threadgroup {
  // What is wrong in the end, null if nothing.
  const char* drop_kept();

  Meeting everyone;
  std::vector<Meeting> simdgroups;
  size_t done = 0;
  std::map<unsigned, Scratch> scratch;
  void* kept = nullptr;
  const char* (*drop)(void* kept) = nullptr;
};

class Cluster {
 public:
  // Of the threads of each threadgroup.
  Cluster(const Launch& launch, const std::vector<std::vector<Thread>>& threads, uint32_t* random);
  ~Cluster();
  // Empty if all threads returned.
  std::string run();

  static const Hooks hooks;

 private:
  static void barrier(Site site, bool whole_threadgroup, bool ordered);
  static void exchange(Site site, const void* mine, size_t bytes, void* all);
  static void* scratch(unsigned id, size_t bytes, size_t most);
  static void wait(Site site, bool (*ready)(void* what), void* what);
  static void** kept(const char* (*drop)(void* kept));
  static void visit(uint32_t rank);
  static void arrive();
  static void wait_for_cluster(Site site);
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
  std::string stuck() const;
  Meeting& simdgroup() const {
    return current_->group->simdgroups[current_->thread.simdgroup_index_in_threadgroup];
  }

  const Launch& launch_;
  uint32_t* random_;
  std::vector<Threadgroup> groups_;
  std::vector<Worker> workers_;
  std::vector<size_t> sequence_;
  size_t arrived_ = 0;
  unsigned phase_ = 0;
  size_t at_ = 0;
  size_t done_ = 0;
  Worker* current_ = nullptr;
  std::vector<std::unique_ptr<Fiber>> idle_;
  std::string error_;
};

}  // namespace emulator
