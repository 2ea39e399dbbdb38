// The threads of the OpenMP runtime that torch has loaded, never a second set.
#pragma once

#include <atomic>
#include <cstdint>

namespace gaussreg {

// A barrier at which threads spin for a few microseconds and then sleep. The barriers of OpenMP
// runtimes spin for milliseconds, which on a busy machine also delays the thread they wait for.
class Barrier {
 public:
  void wait(int threads);

 private:
  std::atomic<int> arrived_{0};
  std::atomic<unsigned> round_{0};
};

// One thread's view of the threads that work on a call together.
class Team {
 public:
  Team(int rank, int size, Barrier* barrier = nullptr)
      : rank_(rank), size_(size), barrier_(barrier) {}
  int rank() const { return rank_; }
  int size() const { return size_; }
  // Waits until all threads of the team have come here.
  void barrier() const {
    if (size_ > 1) barrier_->wait(size_);
  }
  // This thread's share of 0..count-1, contiguous, in multiples of `grain`.
  struct Range {
    std::int64_t begin, end;
  };
  Range share(std::int64_t count, std::int64_t grain = 1) const {
    const std::int64_t pieces = (count + grain - 1) / grain;
    const std::int64_t begin = pieces * rank_ / size_ * grain;
    const std::int64_t end = pieces * (rank_ + 1) / size_ * grain;
    return {begin < count ? begin : count, end < count ? end : count};
  }

 private:
  int rank_, size_;
  Barrier* barrier_;
};

// Calls `body(context, team)` on each of up to `threads` threads. It uses only the calling thread
// if there is no OpenMP runtime, inside another parallel region (of this module or not), and in a
// forked child, which has lost its parent's threads.
void parallel(int threads, void (*body)(void* context, const Team& team), void* context);

template <class Body>
void parallel(int threads, Body&& body) {
  parallel(
      threads, [](void* context, const Team& team) { (*static_cast<Body*>(context))(team); }, &body);
}

// Whether an OpenMP runtime was found; without one parallel() uses one thread.
bool has_openmp();

}  // namespace gaussreg
