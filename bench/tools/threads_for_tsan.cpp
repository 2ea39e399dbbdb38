// The entry points of an OpenMP runtime that kernels/cpu/runtime/team.cpp looks up, made of
// std::thread, for `python -m bench sanitize-threads`.
//
// ThreadSanitizer does not see how OpenMP runtimes synchronise their threads, because those are not
// compiled with it, and would report correct code. It knows how std::thread begins and ends. This
// library is preloaded, so that its functions are found first, by the kernels and by torch.
#include <thread>
#include <vector>

namespace {

thread_local int rank = 0, size = 1;

struct Place {
  int rank, size;
};

void run_as(Place place, void (*body)(void*), void* data) {
  const Place before{rank, size};
  rank = place.rank;
  size = place.size;
  body(data);
  rank = before.rank;
  size = before.size;
}

}  // namespace

extern "C" {

int omp_get_thread_num() { return rank; }
int omp_get_num_threads() { return size; }
int omp_in_parallel() { return size > 1; }

void GOMP_parallel(void (*body)(void*), void* data, unsigned threads, unsigned) {
  const int count = threads == 0 || omp_in_parallel() ? 1 : static_cast<int>(threads);
  std::vector<std::thread> others;
  for (int i = 1; i < count; ++i) others.emplace_back(run_as, Place{i, count}, body, data);
  run_as({0, count}, body, data);
  for (std::thread& other : others) other.join();
}

// A race that must be reported: shows that the sanitizer sees these threads.
int planted_race() {
  int number = 0;
  GOMP_parallel([](void* data) { *static_cast<int*>(data) += 1; }, &number, 4, 0);
  return number;
}

}  // extern "C"
