// The stages of the fused pipeline, for benchmarks: the time of each for one sample, on warm data,
// and of merely moving the same data.
#pragma once

#include <chrono>

#include "fused.h"

namespace gaussreg::GAUSSREG_ISA {

// The best of `repeats` runs, in seconds.
template <class Body>
static double best_of(int repeats, Body&& body) {
  double best = 1e9;
  for (int i = 0; i < repeats; ++i) {
    const auto start = std::chrono::steady_clock::now();
    body();
    const std::chrono::duration<double> taken = std::chrono::steady_clock::now() - start;
    best = taken.count() < best ? taken.count() : best;
  }
  return best;
}

// Times the stages in the order of kStages: the loss of one sample, orders up to 2, and its
// gradient.
static void stages(const Job& job, const Plan& plan, const Workspace& work, int repeats,
                   double* seconds) {
  const Team team(0, 1);
  Shared shared;
  Slot slot;
  take_shared(job, work.base, shared);
  take_slot(job, work.slot(0), slot);
  const std::int32_t* table = shared.table;
  const Team::Range columns{0, plan.columns};
  const float coefficient[kMaxOrder] = {};
  const float* x = rows<float>(job.x, job, 0);
  float* grad = rows<float>(job.grad, job, 0);
  const auto every_tile = [&](auto&& body) {
    for (std::int64_t t = 0; t < plan.tiles; ++t) body(t);
  };
  const auto time = [&](auto&& body) { *seconds++ = best_of(repeats, body); };

  time([&] { fill_table(job.permutation, job.size, 0, shared.table, team); });
  time([&] {
    load_columns<2>(job, plan, table, x, slot, columns, *shared.partials);
  });
  time([&] { transform<-1>(slot.z, plan, slot.bins.re, slot.bins.im, team); });
  time([&] { directions<Direction::kUnit, false>(plan, slot.bins, 0, plan.blocks / 2); });
  time([&] {
    job.loss[0] = static_cast<float>(
        weigh(job, 0, slot.bins.lengths, slot.weights, team));
  });
  time([&] { directions_adjoint<false>(plan, slot.bins, slot.weights, 0, plan.blocks / 2); });
  // The stages ran repeatedly on their own results: start again from ordinary numbers.
  for (std::int64_t k = 0; k < plan.size / 2; ++k) slot.bins.re[k] = slot.bins.im[k] = 1;
  time([&] { transform<+1>(slot.z, plan, slot.bins.re, slot.bins.im, team); });
  time([&] {
    unload_columns<2>(job, plan, table, slot, coefficient, columns, grad);
  });
  time([&] { sample<2>(job, plan, 0, shared.partials, slot, table, team); });
  // Merely moving the data: the gather alone, the scatter alone, a copy.
  time([&] {
    every_tile([&](std::int64_t t) { gather_tile(plan, table, t, x, slot.kept + t * kTile); });
  });
  time([&] {
    every_tile([&](std::int64_t t) {
      scatter_tile(plan, table, t, slot.kept + t * kTile, grad);
    });
  });
  time([&] {
    for (std::int64_t i = 0; i < job.size; i += W) store(grad + i, load(x + i));
  });
  // The clock: multiplications that wait for each other take three cycles each on x86-64.
  time([&] {
    std::uint64_t product = 1;
    for (std::int64_t i = 0; i < job.size; i += 3) {
      product *= 0x9E3779B97F4A7C15ull;
      asm volatile("" : "+r"(product));
    }
  });
}

}  // namespace gaussreg::GAUSSREG_ISA
