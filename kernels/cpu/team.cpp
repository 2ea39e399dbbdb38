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
// runtimes have them too. torch loads one of them for all to see, so no name is linked here.
struct OpenMP {
  void (*run)(void (*)(void*), void*, unsigned, unsigned) = nullptr;
  void (*barrier)() = nullptr;
  int (*thread_num)() = nullptr;
  int (*num_threads)() = nullptr;
  int (*in_parallel)() = nullptr;

  OpenMP() {
#ifdef GAUSSREG_POSIX
    find(run, "GOMP_parallel");
    find(barrier, "GOMP_barrier");
    find(thread_num, "omp_get_thread_num");
    find(num_threads, "omp_get_num_threads");
    find(in_parallel, "omp_in_parallel");
    pthread_atfork(nullptr, nullptr, [] { forked() = true; });
#endif
  }

  bool found() const { return run && barrier && thread_num && num_threads && in_parallel; }

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

struct Call {
  void (*body)(void*, const Team&);
  void* context;
};

// Set while a call has the threads. Callers on other Python threads work alone meanwhile, or there
// would be more threads than were asked for.
std::atomic<bool> busy{false};

}  // namespace

bool has_openmp() { return openmp().found(); }

void Team::barrier() const {
  if (size_ > 1) openmp().barrier();
}

void parallel(int threads, void (*body)(void*, const Team&), void* context) {
  const OpenMP& omp = openmp();
  if (threads <= 1 || !omp.found() || OpenMP::forked() || omp.in_parallel() || busy.exchange(true)) {
    body(context, Team(0, 1));
    return;
  }
  Call call{body, context};
  omp.run(
      [](void* p) {
        const Call& c = *static_cast<Call*>(p);
        c.body(c.context, Team(openmp().thread_num(), openmp().num_threads()));
      },
      &call, static_cast<unsigned>(threads), 0);
  busy = false;
}

}  // namespace gaussreg
