#include "cluster.h"

#include <stdlib.h>
#include <string.h>

#include <numeric>

namespace emulator {

namespace {

thread_local Cluster* running;

#ifdef EXECUTOR_THREAD
// ThreadSanitizer must know every thread apart.
const bool kShareFibers = false;
#else
const bool kShareFibers = true;
#endif

bool same(const Site& a, const Site& b) {
  return a.line == b.line && !strcmp(a.what, b.what) && !strcmp(a.file, b.file);
}

std::string text(const Site& site) {
  return std::string(site.what) + " (" + site.file + ":" + std::to_string(site.line) + ")";
}

// By hand: memcpy is watched by sanitizers, and lanes have no memory in common here.
void copy(volatile char* to, const volatile char* from, size_t bytes) {
  for (size_t i = 0; i < bytes; ++i) to[i] = from[i];
}

}  // namespace

const Hooks Cluster::hooks = {barrier, exchange,         scratch, wait,  kept,    visit,
                              arrive,  wait_for_cluster, self,    lanes, fail_for};

const char* Threadgroup::drop_kept() {
  const char* wrong = kept ? drop(kept) : nullptr;
  kept = nullptr;
  return wrong;
}

Cluster::Cluster(const Launch& launch, const std::vector<std::vector<Thread>>& threads,
                 uint32_t* random)
    : launch_(launch), random_(random), groups_(threads.size()) {
  size_t count = 0;
  for (const auto& one : threads) count += one.size();
  workers_.resize(count);
  sequence_.resize(count);
  std::iota(sequence_.begin(), sequence_.end(), 0);
  Worker* worker = workers_.data();
  for (size_t rank = 0; rank < threads.size(); ++rank) {
    Threadgroup& group = groups_[rank];
    group.simdgroups.resize((threads[rank].size() + 31) / 32);
    for (const Thread& thread : threads[rank]) {
      worker->thread = thread;
      worker->group = worker->visited = &group;
      group.everyone.members.push_back(worker);
      group.simdgroups[thread.simdgroup_index_in_threadgroup].members.push_back(worker);
      ++worker;
    }
  }
}

Cluster::~Cluster() {
  for (Worker& worker : workers_) {
    if (worker.fiber) retire(std::move(worker.fiber));
  }
  for (Threadgroup& group : groups_) group.drop_kept();
}

void Cluster::arrange() {
  size_t count = sequence_.size();
  if (launch_.order == kReverse) {
    for (size_t i = 0; i < count; ++i) sequence_[i] = count - 1 - i;
  } else if (launch_.order == kShuffled) {
    for (size_t i = count - 1; i > 0; --i) {
      *random_ = *random_ * 1664525 + 1013904223;
      std::swap(sequence_[i], sequence_[(*random_ >> 8) % (i + 1)]);
    }
  }
}

std::string Cluster::run() {
  running = this;
  while (done_ < workers_.size()) {
    bool moved = false;
    arrange();
    for (at_ = 0; at_ < sequence_.size(); ++at_) {
      Worker& worker = workers_[sequence_[at_]];
      if (!can_go_on(worker)) continue;
      step(worker);
      moved = true;
      if (!error_.empty()) return error_;
      // Whoever comes first goes on as far as it can.
      if (launch_.order == kAhead) break;
    }
    if (!moved) return stuck();
  }
  for (const Threadgroup& group : groups_) {
    for (const auto& one : group.scratch) {
      if (!one.second.intact()) {
        return "threadgroup memory: written outside of its " + std::to_string(one.second.bytes()) +
               " bytes";
      }
    }
  }
  return "";
}

bool Cluster::can_go_on(Worker& worker) {
  if (worker.ready && worker.ready(worker.what)) {
    worker.ready = nullptr;
    worker.state = State::kReady;
  }
  return worker.state == State::kFresh || worker.state == State::kReady;
}

void Cluster::step(Worker& worker) {
  current_ = &worker;
  if (worker.state == State::kFresh) {
    if (idle_.empty()) idle_.push_back(std::make_unique<Fiber>(work));
    worker.fiber = std::move(idle_.back());
    idle_.pop_back();
  }
  worker.fiber->resume();
}

// A fiber's life. Threads that never wait share one, which makes them plain calls.
void Cluster::work() {
  for (;;) {
    Cluster& all = *running;
    all.launch_.body(all.launch_.buffers, &all.current_->thread);
    all.end(*all.current_);
    if (all.take_next()) continue;
    Fiber* self = all.current_->fiber.get();
    if (kShareFibers) all.idle_.push_back(std::move(all.current_->fiber));
    self->suspend();
  }
}

void Cluster::end(Worker& worker) {
  Threadgroup& group = *worker.group;
  worker.state = State::kDone;
  ++done_;
  if (++group.done < group.everyone.members.size()) return;
  if (const char* wrong = group.drop_kept()) fail(wrong);
}

bool Cluster::take_next() {
  if (!kShareFibers || at_ + 1 >= sequence_.size()) return false;
  Worker& next = workers_[sequence_[at_ + 1]];
  if (next.state != State::kFresh) return false;
  ++at_;
  next.fiber = std::move(current_->fiber);
  current_ = &next;
  return true;
}

void Cluster::fail(std::string what) {
  error_ = std::move(what);
  current_->fiber->suspend();
}

std::string Cluster::stuck() const {
  std::string what =
      std::to_string(done_) + " of " + std::to_string(workers_.size()) + " threads returned";
  for (const Worker& worker : workers_) {
    if (worker.state != State::kWaiting) continue;
    std::string site = text(worker.site);
    if (what.find(site) == std::string::npos) what += ", others wait at " + site;
  }
  return what;
}

// The last to arrive hands out what all gave, so that nobody reads what a faster lane wrote since.
void Cluster::meet(Meeting& meeting, Site site, bool ordered, size_t bytes) {
  Worker& me = *current_;
  if (meeting.arrived && !same(meeting.site, site)) {
    fail("threads diverge: some wait at " + text(meeting.site) + ", others at " + text(site));
  }
  meeting.site = me.site = site;
  // Two, in turns: a thread that leaves late must not see what a fast one did since.
  void* sync = &meeting.sync[meeting.generation % 2];
  if (ordered) sanitizer_release(sync);
  if (++meeting.arrived < meeting.members.size()) {
    me.state = State::kWaiting;
    me.fiber->suspend();
  } else {
    for (Worker* to : meeting.members) {
      to->state = State::kReady;
      for (size_t i = 0; bytes && i < 32; ++i) {
        if (i < meeting.members.size()) {
          copy(to->all + i * bytes, meeting.members[i]->mine, bytes);
        } else {
          for (size_t k = 0; k < bytes; ++k) to->all[i * bytes + k] = char(0xff);
        }
      }
    }
    meeting.arrived = 0;
    ++meeting.generation;
  }
  if (ordered) sanitizer_acquire(sync);
}

void Cluster::barrier(Site site, bool whole_threadgroup, bool ordered) {
  Cluster& all = *running;
  Meeting& meeting = whole_threadgroup ? all.current_->group->everyone : all.simdgroup();
  all.meet(meeting, site, ordered, 0);
}

void Cluster::exchange(Site site, const void* mine, size_t bytes, void* all) {
  Cluster& cluster = *running;
  cluster.current_->mine = (const char*)mine;
  cluster.current_->all = (char*)all;
  cluster.meet(cluster.simdgroup(), site, false, bytes);
}

void* Cluster::scratch(unsigned id, size_t bytes, size_t most) {
  Unwatched here;
  Threadgroup& group = *running->current_->visited;
  auto found = group.scratch.find(id);
  if (found == group.scratch.end()) {
    size_t all = bytes;
    for (const auto& one : group.scratch) all += one.second.bytes();
    if (all > most) {
      running->fail("threadgroup memory: found " + std::to_string(all) +
                    " bytes, expected at most " + std::to_string(most));
    }
    found = group.scratch.emplace(id, bytes).first;
  }
  return found->second.data();
}

void Cluster::wait(Site site, bool (*ready)(void* what), void* what) {
  Worker& me = *running->current_;
  me.site = site;
  me.ready = ready;
  me.what = what;
  me.state = State::kWaiting;
  me.fiber->suspend();
}

void** Cluster::kept(const char* (*drop)(void* kept)) {
  Threadgroup& group = *running->current_->visited;
  group.drop = drop;
  return &group.kept;
}

void Cluster::visit(uint32_t rank) {
  Cluster& all = *running;
  std::string name = "threadgroup " + std::to_string(rank) + " of the cluster";
  if (rank >= all.groups_.size()) all.fail("there is no " + name);
  Threadgroup& group = all.groups_[rank];
  if (group.done == group.everyone.members.size()) all.fail(name + " has ended");
  all.current_->visited = &group;
}

void Cluster::arrive() {
  Cluster& all = *running;
  Worker& me = *all.current_;
  if (me.arrived) all.fail("the cluster's barrier: a thread arrives again before it waits");
  me.arrived = true;
  me.phase = all.phase_;
  if (++all.arrived_ < all.workers_.size()) return;
  all.arrived_ = 0;
  ++all.phase_;
}

void Cluster::wait_for_cluster(Site site) {
  Worker& me = *running->current_;
  if (!me.arrived) running->fail("the cluster's barrier: a thread waits before it arrives");
  auto over = [](void* waiting) { return ((Worker*)waiting)->phase != running->phase_; };
  if (!over(&me)) wait(site, over, &me);
  me.arrived = false;
}

const Thread* Cluster::self() { return &running->current_->thread; }

uint32_t Cluster::lanes() { return uint32_t(running->simdgroup().members.size()); }

void Cluster::fail_for(const char* what) { running->fail(what); }

}  // namespace emulator
