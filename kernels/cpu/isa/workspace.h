// The working memory of the fused pipeline: its arrays, and how they follow each other.
#pragma once

#ifdef GAUSSREG_ASAN
#include <sanitizer/asan_interface.h>
#endif

#include "group.h"
#include "job.h"
#include "moments.h"
#include "spectrum.h"

namespace gaussreg::GAUSSREG_ISA {

struct Slot {
  std::int32_t* table;  // the sample's permutation; null unless each sample has its own
  float* kept;          // permuted x, if the gradient is scattered
  float* permuted;      // the gradient by it, if the gradient is gathered
  float* z;             // the transform, whole tiles, of each sample of a group
  float* group;         // samples side by side
  float* row;           // a sample of a half type in float32, then its gradient; else null
  Bins bins;
  float* weights;       // one per block of 16, then the first again; null: one per bin, in lengths
};

struct Shared {
  Partial* partials;
  std::int32_t* table;  // the shared permutation; null if there is none, or one per sample
};

// Lays out arrays one after the other, on cache lines; if base is null it only counts bytes.
class Arena {
 public:
  explicit Arena(char* base) : base_(base) {}
  template <class T>
  T* take(std::int64_t count) {
    char* here = base_ ? base_ + used_ : nullptr;
    const auto bytes = count * static_cast<std::int64_t>(sizeof(T));
    used_ += (bytes + 63) / 64 * 64;
#ifdef GAUSSREG_ASAN  // a gap whose access the sanitizer reports
    used_ += 64;
    if (base_) ASAN_POISON_MEMORY_REGION(here + bytes, base_ + used_ - (here + bytes));
#endif
    return reinterpret_cast<T*>(here);
  }
  std::int64_t used() const { return used_; }

 private:
  char* base_;
  std::int64_t used_ = 0;
};

static bool is_permuted(const Job& job) {
  return job.permutation.source != Permutation::Source::kNone;
}

// Whether a thread takes its samples in groups, which need whole tiles.
static bool in_groups(const Job& job) {
  return job.batch > 1 && is_permuted(job) && !job.permutation.per_sample && job.size % kTile == 0;
}

static std::int64_t take_shared(const Job& job, char* base, Shared& shared) {
  Arena arena(base);
  shared.partials = arena.take<Partial>(kMaxTeam);
  const bool shares = is_permuted(job) && !job.permutation.per_sample;
  shared.table = shares ? arena.take<std::int32_t>(job.size) : nullptr;
  return arena.used();
}

static std::int64_t take_slot(const Job& job, char* base, Slot& slot) {
  const std::int64_t padded = (job.size + kTile - 1) / kTile * kTile, bins = job.size / 2 + L;
  const bool by_block = job.block_size == L && job.task != Task::kProject;
  Arena arena(base);
  const bool own = is_permuted(job) && job.permutation.per_sample;
  slot.table = own ? arena.take<std::int32_t>(job.size) : nullptr;
  slot.kept = job.grad && !job.gathers ? arena.take<float>(padded) : nullptr;
  slot.permuted = job.grad && job.gathers ? arena.take<float>(job.size) : nullptr;
  slot.z = arena.take<float>(in_groups(job) ? kGroup * padded : padded);
  slot.group = in_groups(job) ? arena.take<float>(kGroup * job.size) : nullptr;
  slot.row = job.is_float() ? nullptr : arena.take<float>(job.size);
  // 64 bytes more for each array, so that their lines fall into different sets of the cache.
  slot.bins.re = arena.take<float>(bins + L);
  slot.bins.im = arena.take<float>(bins + L);
  slot.bins.lengths = arena.take<float>(bins);
  slot.weights = by_block ? arena.take<float>(job.spectrum_blocks() + 1) : nullptr;
  return arena.used();
}

static Workspace fused_workspace(const Job& job) {
  Shared shared;
  Slot slot;
  return {nullptr, take_shared(job, nullptr, shared), take_slot(job, nullptr, slot), 1};
}

}  // namespace gaussreg::GAUSSREG_ISA
