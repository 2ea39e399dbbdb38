// The fused pipeline: a sample in, its results out, nothing in between leaves the cache.
#pragma once

#ifdef GAUSSREG_ASAN
#include <sanitizer/asan_interface.h>
#endif

#include "blocks.h"
#include "fft.h"
#include "job.h"
#include "permutation.h"
#include "spectrum.h"
#include "tile.h"

namespace gaussreg::GAUSSREG_ISA {

struct Slot {
  std::int32_t* table;  // of a permutation of its own, where each sample has one
  float* kept;          // permuted x, where the gradient is scattered; or to sort in
  float* z;             // the transform
  Bins bins;
  float* weights;       // one per block of 16, and the first again; null: one per bin, in lengths
};

struct Shared {
  Partial* partials;
  std::int32_t* table;
  std::int32_t* back;  // where in `z` the gradient by x_i ends up
};

// Lays arrays one behind the other, on cache lines; counts only, where base is null.
class Arena {
 public:
  explicit Arena(char* base) : base_(base) {}
  template <class T>
  T* take(std::int64_t count) {
    char* here = base_ ? base_ + used_ : nullptr;
    const auto bytes = count * static_cast<std::int64_t>(sizeof(T));
    used_ += (bytes + 63) / 64 * 64;
#ifdef GAUSSREG_ASAN  // a gap that nobody may touch
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

// One permutation for many samples: an inverse table pays, the gradient is gathered. Otherwise it
// is scattered, which costs half as much again but needs no table.
static bool gathers_back(const Job& job) {
  return job.grad && job.batch > 1 && !job.permutation.per_sample;
}

static std::int64_t take_shared(const Job& job, char* base, Shared& shared) {
  Arena arena(base);
  shared.partials = arena.take<Partial>(kMaxTeam);
  shared.table = job.permutation.per_sample ? nullptr : arena.take<std::int32_t>(job.size);
  shared.back = gathers_back(job) ? arena.take<std::int32_t>(job.size) : nullptr;
  return arena.used();
}

static std::int64_t take_slot(const Job& job, char* base, Slot& slot) {
  const std::int64_t padded = job.size < kTile ? kTile : job.size, bins = job.size / 2 + L;
  const bool by_block = job.block_size == L && job.task != Task::kProject;
  const bool keeps = (job.grad && !gathers_back(job)) || job.task == Task::kProject;
  Arena arena(base);
  slot.table = job.permutation.per_sample ? arena.take<std::int32_t>(job.size) : nullptr;
  slot.kept = keeps ? arena.take<float>(padded) : nullptr;
  slot.z = arena.take<float>(padded);
  // 64 bytes more each, so that their lines do not fall into the same sets of the cache.
  slot.bins.re = arena.take<float>(bins + L);
  slot.bins.im = arena.take<float>(bins + L);
  slot.bins.lengths = arena.take<float>(bins);
  slot.weights = by_block ? arena.take<float>(job.spectrum_blocks() + 1) : nullptr;
  return arena.used();
}

static void fill_table(const Permutation& p, std::int64_t size, std::int64_t sample,
                       std::int32_t* table, const Team& team) {
  const auto [begin, end] = team.share(size, L);
  switch (p.source) {
    case Permutation::Source::kNone:
      for (std::int64_t j = begin; j < end; ++j) table[j] = static_cast<std::int32_t>(j);
      break;
    case Permutation::Source::kSeed:
      permutation(p.seed, p.per_sample ? sample : 0, size, false, begin, end, table + begin);
      break;
    case Permutation::Source::kIndex: {
      const std::int64_t* row = p.index + (p.per_sample ? sample * size : 0);
      for (std::int64_t j = begin; j < end; ++j) table[j] = static_cast<std::int32_t>(row[j]);
    }
  }
}

static void fill_back(const Plan& plan, const std::int32_t* table, std::int32_t* back,
                      const Team& team) {
  const auto [begin, end] = team.share(plan.tiles);
  for (std::int64_t tile = begin; tile < end; ++tile)
    for (int l = 0; l < L; ++l) {
      const std::int32_t* to = row_of(plan, table, tile, l);
      const auto place = static_cast<std::int32_t>(tile * kTile + l * 2 * L);
      for (int lane = 0; lane < plan.lanes; ++lane) {
        back[to[2 * lane]] = place + lane;
        back[to[2 * lane + 1]] = place + L + lane;
      }
    }
}

template <class Body>
GAUSSREG_INLINE void with_direction(const Job& job, Body&& body) {
  using D = Direction;
  if (job.task == Task::kProject)
    body(std::integral_constant<D, D::kAlways>{}, std::false_type{});
  else if (!job.grad)
    job.power ? body(std::integral_constant<D, D::kNone>{}, std::true_type{})
              : body(std::integral_constant<D, D::kNone>{}, std::false_type{});
  else
    job.power ? body(std::integral_constant<D, D::kValue>{}, std::true_type{})
              : body(std::integral_constant<D, D::kUnit>{}, std::false_type{});
}

// out_i = gradient by the permuted sample, from where it ended up, + polynomial(x_i).
template <int K>
static void gather_back(const std::int32_t* back, const float* z, const float* x,
                        const float* coefficient, float* out, std::int64_t begin,
                        std::int64_t end) {
  alignas(64) float part[kTile];
  for (std::int64_t start = begin; start < end; start += kTile) {
    const std::int64_t count = end - start < kTile ? end - start : kTile;
    for (std::int64_t i = 0; i < count; ++i) part[i] = z[back[start + i]];
    for (std::int64_t i = 0; i < count; i += W)
      store(out + start + i,
            load(part + i) + polynomial<K>(load(x + start + i), coefficient));
  }
}

// x to blocks and sums of powers, for some tiles.
template <int K>
static void load_tiles(const Job& job, const Plan& plan, const std::int32_t* table, const float* x,
                       const Slot& slot, bool keeps, Team::Range tiles, Partial& mine) {
  alignas(64) float scratch[kTile];
  PowerSums<K> sums;
  const float scale = job.task == Task::kProject ? unit_scale(x, job.size) : 1;
  for (std::int64_t t = tiles.begin; t < tiles.end; ++t)
    load_tile<K>(plan, table, t, x, scale, keeps ? slot.kept + t * kTile : scratch, slot.z, sums);
  sums.write(mine.sums);
}

// Blocks to the gradient by x, through the table.
template <int K>
static void scatter_tiles(const Job& job, const Plan& plan, const std::int32_t* table,
                          const Slot& slot, const float* coefficient, Team::Range tiles,
                          float* out) {
  alignas(64) float values[kTile];
  for (std::int64_t t = tiles.begin; t < tiles.end; ++t) {
    unload_tile(plan, t, slot.z, values);
    const float* kept = slot.kept + t * kTile;
    if constexpr (K > 0)
      if (job.task != Task::kProject)
        for (int i = 0; i < kTile; i += W)
          store(values + i, load(values + i) + polynomial<K>(load(kept + i), coefficient));
    scatter_tile(plan, table, t, values, out);
  }
}

template <int K>
static void sample(const Job& job, const Plan& plan, std::int64_t index, const Shared& shared,
                   const Slot& slot, const std::int32_t* table, const Team& team) {
  const float* x = job.x + index * job.size;
  Partial& mine = shared.partials[team.rank()];
  const Team::Range tiles = team.share(plan.tiles);
  const bool scatters = job.grad && !shared.back;
  load_tiles<K>(job, plan, table, x, slot, scatters, tiles, mine);
  team.barrier();

  transform<-1>(slot.z, plan, slot.bins.re, slot.bins.im, team);
  const Team::Range pairs = team.share(plan.blocks / 2);
  with_direction(job, [&](auto direction, auto power) {
    directions<direction(), power()>(plan, slot.bins, pairs.begin, pairs.end);
  });
  team.barrier();
  mine.loss = weigh(job, index, plan.scale, slot.bins.lengths, slot.weights,
                    reinterpret_cast<Ranked*>(slot.kept), team);
  team.barrier();

  double power_loss = 0;
  for (int rank = 0; rank < team.size(); ++rank) power_loss += shared.partials[rank].loss;
  float coefficient[kMaxOrder];
  finish(job, index, means(job, shared.partials, team), power_loss, team.rank() == 0, coefficient);
  if (!job.grad) {
    team.barrier();
    return;
  }
  if (slot.weights)
    directions_adjoint<false>(plan, slot.bins, slot.weights, pairs.begin, pairs.end);
  else
    directions_adjoint<true>(plan, slot.bins, slot.weights, pairs.begin, pairs.end);
  team.barrier();
  transform<+1>(slot.z, plan, slot.bins.re, slot.bins.im, team);
  float* out = job.grad + index * job.size;
  if (scatters) {
    scatter_tiles<K>(job, plan, table, slot, coefficient, tiles, out);
  } else {
    for (std::int64_t t = tiles.begin; t < tiles.end; ++t)
      unload_tile(plan, t, slot.z, slot.z + t * kTile);
    team.barrier();
    const auto [from, to] = team.share(job.size, kTile);
    gather_back<K>(shared.back, slot.z, x, coefficient, out, from, to);
  }
  team.barrier();
}

static void fused(const Job& job, const Plan& plan, const Workspace& work, const Team& team) {
  Shared shared;
  take_shared(job, work.base, shared);
  if (shared.table) fill_table(job.permutation, job.size, 0, shared.table, team);
  if (shared.back) {
    team.barrier();
    fill_back(plan, shared.table, shared.back, team);
  }
  if (shared.table) team.barrier();

  // Not batch >= team.size(): the runtime may have given fewer threads than were asked for.
  const bool alone = team.size() <= work.slots;
  const Team group = alone ? Team(0, 1) : team;
  Slot slot;
  take_slot(job, work.slot(alone ? team.rank() : 0), slot);
  if (alone) shared.partials += team.rank();
  const Team::Range samples = alone ? team.share(job.batch) : Team::Range{0, job.batch};
  with_degree(job.orders.highest, [&](auto degree) {
    for (std::int64_t b = samples.begin; b < samples.end; ++b) {
      const std::int32_t* table = shared.table;
      if (!table) {
        fill_table(job.permutation, job.size, b, slot.table, group);
        group.barrier();
        table = slot.table;
      }
      sample<degree()>(job, plan, b, shared, slot, table, group);
    }
  });
}

static Workspace fused_workspace(const Job& job) {
  Shared shared;
  Slot slot;
  return {nullptr, take_shared(job, nullptr, shared), take_slot(job, nullptr, slot), 1};
}

}  // namespace gaussreg::GAUSSREG_ISA
