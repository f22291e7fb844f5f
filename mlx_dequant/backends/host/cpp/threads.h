// Shares the steps of a loop between threads that sleep until there is work: nothing spins.
//
// A thread helps where its help pays: what a loop's steps cost and how long a thread takes to begin
// are measured, again with every product.

typedef void (*Run)(void* const* arrays, const LaunchParams* params, size_t begin, size_t end);

// A compiled loop. Python keeps it, with the same fields.
struct Loop {
  Run run;
  double cost;  // nanoseconds of a unit of work, 0 while not known
};

struct Job {
  Run run;
  void* const* arrays;
  const LaunchParams* params;
  size_t steps;
  size_t parts;
  size_t grain;   // parts begin at multiples of it
  size_t next;    // part
  uint wanted;    // helpers that have not come yet
  uint inside;    // helpers at work
  double posted;  // when help was asked for
  Job* after;
};

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t posted = PTHREAD_COND_INITIALIZER;
static pthread_cond_t done = PTHREAD_COND_INITIALIZER;
static Job* jobs;
static uint helpers;
static uint alone;            // products since the last one with help
static double delay = 30000;  // nanoseconds until a helper begins: a guess, for the first product

static double now() {
  timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return 1e9 * double(time.tv_sec) + double(time.tv_nsec);
}

// Follows a measured time. One that was interrupted counts as twice the time known at most.
static double follow(double known, double measured) {
  if (known == 0) return measured;
  if (measured > 2 * known) measured = 2 * known;
  return known + (measured - known) / 8;
}

// The share of the steps that this thread did.
static double work_on(Job* job) {
  size_t count = 0;
  for (;;) {
    const size_t part = __atomic_fetch_add(&job->next, 1, __ATOMIC_RELAXED);
    if (part >= job->parts) return double(count) / double(job->steps);
    const size_t units = (job->steps + job->grain - 1) / job->grain;
    const size_t begin = units * part / job->parts * job->grain;
    const size_t limit = units * (part + 1) / job->parts * job->grain;
    const size_t end = limit < job->steps ? limit : job->steps;
    if (begin < end) job->run(job->arrays, job->params, begin, end);
    count += end - begin;
  }
}

static void* help(void*) {
  pthread_mutex_lock(&mutex);
  for (;;) {
    Job* job = jobs;
    while (job && !job->wanted) job = job->after;
    if (!job) {
      pthread_cond_wait(&posted, &mutex);
      continue;
    }
    delay = follow(delay, now() - job->posted);
    --job->wanted;
    ++job->inside;
    pthread_mutex_unlock(&mutex);
    work_on(job);
    pthread_mutex_lock(&mutex);
    if (--job->inside == 0) pthread_cond_broadcast(&done);
  }
  return nullptr;
}

// A child of a fork has none of its parent's threads.
static void forget() {
  pthread_mutex_init(&mutex, nullptr);
  pthread_cond_init(&posted, nullptr);
  pthread_cond_init(&done, nullptr);
  jobs = nullptr;
  helpers = 0;
}

// Starts threads until there are `count`, with all signals left to the process's own threads.
static void start(uint count) {
  static bool registered;
  if (!registered) pthread_atfork(nullptr, nullptr, forget);
  registered = true;
  sigset_t all, before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  for (pthread_t started; helpers < count; ++helpers) {
    if (pthread_create(&started, nullptr, help, nullptr)) break;
    pthread_detach(started);
  }
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
}

// Does all steps of a loop on up to `threads` threads.
//
// work: units of work, whose cost the loop remembers.
static void share(Loop* loop, void* const* arrays, const LaunchParams& params, size_t steps,
                  size_t grain, double work, uint threads) {
  if (!steps) return;
  double cost;
  __atomic_load(&loop->cost, &cost, __ATOMIC_RELAXED);
  Job job = {loop->run, arrays, &params, steps, 1, grain, 0, 0, 0, 0, nullptr};
  const uint limit = threads < 64 ? threads : 64;
  if (limit > 1) {
    pthread_mutex_lock(&mutex);
    // A thread pays if its work takes longer than it takes to come; now and then one is tried.
    const double pays = cost ? cost * work / (2 * delay) : 0;
    uint wanted = pays < limit - 1 ? uint(pays) : limit - 1;
    if (wanted == 0 && cost && ++alone >= 64) wanted = 1;
    if (wanted) {
      alone = 0;
      start(wanted > helpers ? wanted : helpers);
      job.wanted = wanted < helpers ? wanted : helpers;
      job.parts = 4 * (job.wanted + 1);
      job.posted = now();
      job.after = jobs;
      jobs = &job;
      for (uint i = 0; i < job.wanted; ++i) pthread_cond_signal(&posted);
    }
    pthread_mutex_unlock(&mutex);
  }
  const double begin = now();
  const double part = work_on(&job);
  const double time = now() - begin;
  if (part > 0) {
    cost = follow(cost, time / (work * part));
    __atomic_store(&loop->cost, &cost, __ATOMIC_RELAXED);
  }
  if (!job.posted) return;
  pthread_mutex_lock(&mutex);
  if (job.wanted) delay = follow(delay, time);
  for (Job** at = &jobs; *at; at = &(*at)->after) {
    if (*at != &job) continue;
    *at = job.after;
    break;
  }
  while (job.inside) pthread_cond_wait(&done, &mutex);
  pthread_mutex_unlock(&mutex);
}
