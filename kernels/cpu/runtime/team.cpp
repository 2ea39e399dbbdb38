#include "team.h"

#include <atomic>

#if defined(__unix__) || defined(__APPLE__)
#include <dlfcn.h>
#include <pthread.h>
#define GAUSSREG_POSIX 1
#endif

namespace gaussreg {
namespace {

// The entry points of libgomp that compilers call for `#pragma omp parallel`; LLVM's and Intel's
// runtimes have them, too. torch loads one of these runtimes with global symbols, so they are
// looked up by name and nothing is linked.
struct OpenMP {
  void (*run)(void (*)(void*), void*, unsigned, unsigned) = nullptr;
  int (*thread_num)() = nullptr;
  int (*num_threads)() = nullptr;
  int (*in_parallel)() = nullptr;

  OpenMP() {
#ifdef GAUSSREG_POSIX
    find(run, "GOMP_parallel");
    find(thread_num, "omp_get_thread_num");
    find(num_threads, "omp_get_num_threads");
    find(in_parallel, "omp_in_parallel");
    pthread_atfork(nullptr, nullptr, [] { forked() = true; });
#endif
  }

  bool found() const { return run && thread_num && num_threads && in_parallel; }

  static std::atomic<bool>& forked() {
    static std::atomic<bool> flag{false};
    return flag;
  }

#ifdef GAUSSREG_POSIX
  template <class Function>
  static void find(Function& function, const char* name) {
    function = reinterpret_cast<Function>(dlsym(RTLD_DEFAULT, name));
  }
#endif
};

const OpenMP& openmp() {
  static const OpenMP runtime;
  return runtime;
}

// Tells the processor that this thread is only waiting.
void pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

struct Call {
  void (*body)(void*, const Team&);
  void* context;
  Barrier barrier;
};

// True while a call has the threads. Calls from other Python threads work alone meanwhile;
// otherwise there would be more threads than torch.set_num_threads allows.
std::atomic<bool> busy{false};

}  // namespace

bool has_openmp() { return openmp().found(); }

void Barrier::wait(int threads) {
  constexpr int kTries = 2000;
  const unsigned round = round_.load(std::memory_order_relaxed);
  if (arrived_.fetch_add(1, std::memory_order_acq_rel) + 1 == threads) {
    arrived_.store(0, std::memory_order_relaxed);
    round_.store(round + 1, std::memory_order_release);
    round_.notify_all();
    return;
  }
  for (int i = 0; i < kTries; ++i) {
    if (round_.load(std::memory_order_acquire) != round) return;
    pause();
  }
  round_.wait(round, std::memory_order_acquire);
}

void parallel(int threads, void (*body)(void*, const Team&), void* context) {
  const OpenMP& omp = openmp();
  if (threads <= 1 || !omp.found() || OpenMP::forked() || omp.in_parallel() || busy.exchange(true)) {
    body(context, Team(0, 1));
    return;
  }
  Call call{body, context, {}};
  omp.run(
      [](void* p) {
        Call& c = *static_cast<Call*>(p);
        const Team team(openmp().thread_num(), openmp().num_threads(), &c.barrier);
        c.body(c.context, team);
        team.barrier();  // may sleep; the runtime's own barrier at the end of a region would spin
      },
      &call, static_cast<unsigned>(threads), 0);
  busy = false;
}

}  // namespace gaussreg
