// The fused pipeline, from a sample to its results. Intermediate data stays in the cache.
#pragma once

#include "blocks.h"
#include "fft.h"
#include "group.h"
#include "permutation.h"
#include "workspace.h"

namespace gaussreg::GAUSSREG_ISA {

static void fill_table(const Permutation& p, std::int64_t size, std::int64_t sample,
                       std::int32_t* table, const Team& team) {
  const auto [begin, end] = team.share(size, 64);
  switch (p.source) {
    case Permutation::Source::kNone:
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

template <class Body>
GAUSSREG_INLINE void with_direction(const Job& job, Body&& body) {
  using D = Direction;
  if (job.task == Task::kProject)
    body(std::integral_constant<D, D::kAlways>{}, std::false_type{});
  else if (!job.grad)
    job.power_statistic ? body(std::integral_constant<D, D::kNone>{}, std::true_type{})
              : body(std::integral_constant<D, D::kNone>{}, std::false_type{});
  else
    job.power_statistic ? body(std::integral_constant<D, D::kValue>{}, std::true_type{})
              : body(std::integral_constant<D, D::kUnit>{}, std::false_type{});
}

// Calls body for the tiles of a column; the widest pass then finds their blocks in the first cache.
template <class Body>
GAUSSREG_INLINE void each_tile(const Plan& plan, const std::int32_t* table, std::int64_t column,
                               Body&& body) {
  for (std::int64_t t = column; t < plan.tiles; t += plan.columns) {
    expect_tile(plan, table, t + plan.columns);
    body(t);
  }
}

// Loads x into blocks and sums its powers, for a range of columns of tiles.
template <int K>
static void load_columns(const Job& job, const Plan& plan, const std::int32_t* table,
                         const float* x, const Slot& slot, Team::Range columns, Partial& mine) {
  alignas(64) float scratch[kTile];
  PowerSums<K> sums;
  const float scale = job.task == Task::kProject ? unit_scale(x, job.size) : 1;
  for (std::int64_t c = columns.begin; c < columns.end; ++c) {
    each_tile(plan, table, c, [&](std::int64_t t) {
      float* values = slot.kept ? slot.kept + t * kTile : scratch;
      gather_tile(plan, table, t, x, values);
      if (scale != 1)
        for (int i = 0; i < kTile; i += W) store(values + i, load(values + i) * scale);
      load_tile<K>(t, MadeRoots{plan, t}, values, slot.z, sums);
    });
    column_pass<-1>(slot.z, plan, c);
  }
  sums.write(mine.sums);
}

// Writes the gradient by x from blocks, through the table if there is one.
template <int K>
static void unload_columns(const Job& job, const Plan& plan, const std::int32_t* table,
                           const Slot& slot, const float* coefficient, Team::Range columns,
                           float* out) {
  alignas(64) float values[kTile];
  for (std::int64_t c = columns.begin; c < columns.end; ++c) {
    column_pass<+1>(slot.z, plan, c);
    each_tile(plan, table, c, [&](std::int64_t t) {
      unload_tile(t, MadeRoots{plan, t}, slot.z, values);
      if (slot.permuted) return write_tile(plan, t, values, slot.permuted);
      const float* kept = slot.kept + t * kTile;
      if constexpr (K > 0)
        if (job.task != Task::kProject)
          for (int i = 0; i < kTile; i += W)
            store(values + i, load(values + i) + polynomial<K>(load(kept + i), coefficient));
      scatter_tile(plan, table, t, values, out);
    });
  }
}

// Computes a sample's results from its blocks, and replaces these by the blocks of its gradient.
static void pass_spectrum(const Job& job, const Plan& plan, std::int64_t index, Partial* partials,
                          const Slot& slot, float* z, float* coefficient, const Team& team) {
  transform<-1>(z, plan, slot.bins.re, slot.bins.im, team);
  const Team::Range pairs = team.share(plan.blocks / 2);
  with_direction(job, [&](auto direction, auto power_statistic) {
    directions<direction(), power_statistic()>(plan, slot.bins, pairs.begin, pairs.end);
  });
  team.barrier();
  partials[team.rank()].loss = weigh(job, index, slot.bins.lengths, slot.weights, team);
  team.barrier();

  double power_loss = 0;
  for (int rank = 0; rank < team.size(); ++rank) power_loss += partials[rank].loss;
  finish(job, index, means(job, partials, team), power_loss, team.rank() == 0, coefficient);
  if (!job.grad) return;
  if (slot.weights)
    directions_adjoint<false>(plan, slot.bins, slot.weights, pairs.begin, pairs.end);
  else
    directions_adjoint<true>(plan, slot.bins, slot.weights, pairs.begin, pairs.end);
  team.barrier();
  transform<+1>(z, plan, slot.bins.re, slot.bins.im, team);
}

// Returns a sample's x in float32, converted by the team if it is of a half type.
static const float* float_row(const Job& job, std::int64_t index, const Slot& slot,
                              const Team& team) {
  if (job.is_float()) return rows<float>(job.x, job, index);
  const auto [begin, end] = team.share(job.size, W);
  with_numbers(job, [&](auto number, auto) {
    using T = decltype(number);
    const T* x = rows<T>(job.x, job, index);
    for (std::int64_t i = begin; i < end; i += W) store(slot.row + i, T::read(x + i));
  });
  team.barrier();
  return slot.row;
}

// Writes the gradient by x from the gradient by the permuted x, in order.
template <int K>
static void gather_gradient(const Job& job, std::int64_t index, const float* x, const float* permuted,
                            const float* coefficient, const Team& team) {
  constexpr int kPart = 1024;
  alignas(64) std::int32_t from[kPart];
  const auto [begin, end] = team.share(job.size, 64);
  const Permutation& p = job.permutation;
  with_permutation<true>(p.seed, p.per_sample ? index : 0, job.size, [&](auto fill) {
    with_numbers(job, [&](auto, auto number) {
      using G = decltype(number);
      G* grad = rows<G>(job.grad, job, index);
      for (std::int64_t i = begin; i < end; i += kPart) {
        const std::int64_t count = end - i < kPart ? end - i : kPart;
        fill(i, i + count, from);
        for (std::int64_t k = 0; k < count; k += W) {
          float part[W];
          for (int lane = 0; lane < W; ++lane) part[lane] = permuted[from[k + lane]];
          store(grad + i + k, G::rounded(load(part) + polynomial<K>(load(x + i + k), coefficient)));
        }
      }
    });
  });
}

template <int K>
static void sample(const Job& job, const Plan& plan, std::int64_t index, Partial* partials,
                   const Slot& slot, const std::int32_t* table, const Team& team) {
  const Team::Range columns = team.share(plan.columns);
  const float* x = float_row(job, index, slot, team);
  load_columns<K>(job, plan, table, x, slot, columns, partials[team.rank()]);
  team.barrier();
  float coefficient[kMaxOrder];
  pass_spectrum(job, plan, index, partials, slot, slot.z, coefficient, team);
  if (!job.grad) return team.barrier();
  const bool half = job.grad_type != Number::kFloat;
  float* out = half ? slot.row : rows<float>(job.grad, job, index);
  unload_columns<K>(job, plan, table, slot, coefficient, columns, out);
  team.barrier();
  if (slot.permuted) {
    gather_gradient<K>(job, index, x, slot.permuted, coefficient, team);
    return team.barrier();
  }
  if (!half) return;
  const auto [begin, end] = team.share(job.size, W);
  with_numbers(job, [&](auto, auto number) {
    using G = decltype(number);
    G* grad = rows<G>(job.grad, job, index);
    for (std::int64_t i = begin; i < end; i += W) store(grad + i, G::rounded(load(out + i)));
  });
  team.barrier();
}

// Computes `count` samples from `first` on, in one thread, with the same bits as sample().
template <int K>
static void group(const Job& job, const Plan& plan, std::int64_t first, int count,
                  Partial* partials, const Slot& slot, const std::int32_t* table) {
  const auto z = [&](int s) { return slot.z + s * job.size; };
  with_numbers(job, [&](auto x, auto) {
    interleave(rows<decltype(x)>(job.x, job, first), count, job.size, slot.group);
  });
  alignas(64) float values[kGroup * kTile];
  PowerSums<K> sums[kGroup];
  for (std::int64_t c = 0; c < plan.columns; ++c) {
    each_tile(plan, table, c, [&](std::int64_t t) {
      gather_tiles(plan, table, t, slot.group, values);
      const KeptRoots root(plan, t);
      for (int s = 0; s < count; ++s)
        load_tile<K>(t, root, values + s * kTile, z(s), sums[s]);
    });
    for (int s = 0; s < count; ++s) column_pass<-1>(z(s), plan, c);
  }
  float coefficient[kGroup][kMaxOrder] = {};
  for (int s = 0; s < count; ++s) {
    sums[s].write(partials->sums);
    pass_spectrum(job, plan, first + s, partials, slot, z(s), coefficient[s], Team(0, 1));
  }
  if (!job.grad) return;
  for (std::int64_t c = 0; c < plan.columns; ++c) {
    for (int s = 0; s < count; ++s) column_pass<+1>(z(s), plan, c);
    each_tile(plan, table, c, [&](std::int64_t t) {
      const KeptRoots root(plan, t);
      for (int s = 0; s < count; ++s) unload_tile(t, root, z(s), values + s * kTile);
      scatter_tiles(plan, table, t, values, slot.group);
    });
  }
  with_numbers(job, [&](auto x, auto grad) {
    separate<K>(slot.group, rows<decltype(x)>(job.x, job, first), count, coefficient, job.size,
                rows<decltype(grad)>(job.grad, job, first));
  });
}

static void fused(const Job& job, const Plan& plan, const Workspace& work, const Team& team) {
  Shared shared;
  take_shared(job, work.base, shared);
  if (shared.table) fill_table(job.permutation, job.size, 0, shared.table, team);
  if (shared.table) team.barrier();

  // Not batch >= team.size(): the runtime may give fewer threads than requested.
  const bool alone = team.size() <= work.slots;
  const Team members = alone ? Team(0, 1) : team;
  Slot slot;
  take_slot(job, work.slot(alone ? team.rank() : 0), slot);
  if (alone) shared.partials += team.rank();
  const Team::Range samples = alone ? team.share(job.batch) : Team::Range{0, job.batch};
  const std::int64_t step = alone && in_groups(job) ? kGroup : 1;
  with_degree(job.orders.highest, [&](auto degree) {
    for (std::int64_t b = samples.begin; b < samples.end; b += step) {
      const std::int32_t* table = shared.table;
      if (slot.table) {
        fill_table(job.permutation, job.size, b, slot.table, members);
        members.barrier();
        table = slot.table;
      }
      const auto count = static_cast<int>(samples.end - b < step ? samples.end - b : step);
      if (count > 1)
        group<degree()>(job, plan, b, count, shared.partials, slot, table);
      else
        sample<degree()>(job, plan, b, shared.partials, slot, table, members);
    }
  });
}

}  // namespace gaussreg::GAUSSREG_ISA
