#include "threadgroup.h"

#include <stdlib.h>
#include <string.h>

#include <numeric>

namespace emulator {

namespace {

thread_local Threadgroup* running;

#ifdef EMULATOR_THREAD
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

void copy(char* to, const char* from, size_t bytes) {
#ifdef EMULATOR_WATCHED
  // By hand: memcpy is watched by sanitizers, and lanes have no memory in common here.
  for (size_t i = 0; i < bytes; ++i) ((volatile char*)to)[i] = ((const volatile char*)from)[i];
#else
  memcpy(to, from, bytes);
#endif
}

// To each of a simdgroup what all gave; a lane that is not there gave bits 1.
void hand_out(const std::vector<Worker*>& members, size_t bytes) {
  char* all = members[0]->all;
  for (size_t i = 0; i < 32; ++i) {
    if (i < members.size()) {
      copy(all + i * bytes, members[i]->mine, bytes);
    } else {
      for (size_t k = 0; k < bytes; ++k) all[i * bytes + k] = char(0xff);
    }
  }
  for (size_t i = 1; i < members.size(); ++i) copy(members[i]->all, all, 32 * bytes);
}

}  // namespace

const Hooks Threadgroup::hooks = {barrier, exchange, scratch, wait, kept, self, lanes, fail_for};

Threadgroup::Threadgroup(const Launch& launch, const std::vector<Thread>& threads, uint32_t* random)
    : launch_(launch),
      random_(random),
      workers_(threads.size()),
      simdgroups_((threads.size() + 31) / 32),
      sequence_(threads.size()) {
  std::iota(sequence_.begin(), sequence_.end(), 0);
  for (size_t i = 0; i < threads.size(); ++i) {
    Worker& worker = workers_[i];
    worker.thread = threads[i];
    everyone_.members.push_back(&worker);
    simdgroups_[worker.thread.simdgroup_index_in_threadgroup].members.push_back(&worker);
  }
}

Threadgroup::~Threadgroup() {
  for (Worker& worker : workers_) {
    if (worker.fiber) retire(std::move(worker.fiber));
  }
  drop_kept();
}

void Threadgroup::arrange() {
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

std::string Threadgroup::run() {
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
  for (const auto& one : scratch_) {
    if (!one.second.intact()) {
      return "threadgroup memory: written outside of its " + std::to_string(one.second.bytes()) +
             " bytes";
    }
  }
  return "";
}

bool Threadgroup::can_go_on(Worker& worker) {
  if (worker.ready && worker.ready(worker.what)) {
    worker.ready = nullptr;
    worker.state = State::kReady;
  }
  return worker.state == State::kFresh || worker.state == State::kReady;
}

void Threadgroup::step(Worker& worker) {
  current_ = &worker;
  if (worker.state == State::kFresh) {
    if (idle_.empty()) idle_.push_back(std::make_unique<Fiber>(work));
    worker.fiber = std::move(idle_.back());
    idle_.pop_back();
  }
  worker.fiber->resume();
}

// A fiber's life. Threads that never wait share one, which makes them plain calls.
void Threadgroup::work() {
  for (;;) {
    Threadgroup& group = *running;
    group.launch_.body(group.launch_.buffers, &group.current_->thread);
    group.end(*group.current_);
    if (group.take_next()) continue;
    Fiber* self = group.current_->fiber.get();
    if (kShareFibers) group.idle_.push_back(std::move(group.current_->fiber));
    self->suspend();
  }
}

void Threadgroup::end(Worker& worker) {
  worker.state = State::kDone;
  if (++done_ < workers_.size()) return;
  if (const char* wrong = drop_kept()) fail(wrong);
}

bool Threadgroup::take_next() {
  if (!kShareFibers || at_ + 1 >= sequence_.size()) return false;
  Worker& next = workers_[sequence_[at_ + 1]];
  if (next.state != State::kFresh) return false;
  ++at_;
  next.fiber = std::move(current_->fiber);
  current_ = &next;
  return true;
}

void Threadgroup::fail(std::string what) {
  error_ = std::move(what);
  current_->fiber->suspend();
}

const char* Threadgroup::drop_kept() {
  const char* wrong = kept_ ? drop_(kept_) : nullptr;
  kept_ = nullptr;
  return wrong;
}

std::string Threadgroup::stuck() const {
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
void Threadgroup::meet(Meeting& meeting, Site site, bool ordered, size_t bytes) {
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
    for (Worker* member : meeting.members) member->state = State::kReady;
    if (bytes) hand_out(meeting.members, bytes);
    meeting.arrived = 0;
    ++meeting.generation;
  }
  if (ordered) sanitizer_acquire(sync);
}

void Threadgroup::barrier(Site site, bool whole_threadgroup, bool ordered) {
  Threadgroup& group = *running;
  Meeting& meeting = whole_threadgroup ? group.everyone_ : group.simdgroup();
  group.meet(meeting, site, ordered, 0);
}

void Threadgroup::exchange(Site site, const void* mine, size_t bytes, void* all) {
  Threadgroup& group = *running;
  group.current_->mine = (const char*)mine;
  group.current_->all = (char*)all;
  group.meet(group.simdgroup(), site, false, bytes);
}

void* Threadgroup::scratch(unsigned id, size_t bytes, size_t most) {
  Unwatched here;
  Threadgroup& group = *running;
  auto found = group.scratch_.find(id);
  if (found == group.scratch_.end()) {
    size_t all = bytes;
    for (const auto& one : group.scratch_) all += one.second.bytes();
    if (all > most) {
      group.fail("threadgroup memory: found " + std::to_string(all) + " bytes, expected at most " +
                 std::to_string(most));
    }
    found = group.scratch_.emplace(id, bytes).first;
  }
  return found->second.data();
}

void Threadgroup::wait(Site site, bool (*ready)(void* what), void* what) {
  Worker& me = *running->current_;
  me.site = site;
  me.ready = ready;
  me.what = what;
  me.state = State::kWaiting;
  me.fiber->suspend();
}

void** Threadgroup::kept(const char* (*drop)(void* kept)) {
  running->drop_ = drop;
  return &running->kept_;
}

const Thread* Threadgroup::self() { return &running->current_->thread; }

uint32_t Threadgroup::lanes() { return uint32_t(running->simdgroup().members.size()); }

void Threadgroup::fail_for(const char* what) { running->fail(what); }

}  // namespace emulator
