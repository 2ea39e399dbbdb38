// Parameter drift over a list of tensors, chunk by chunk.
#pragma once

#include <type_traits>

#include "drift_job.h"
#include "job.h"
#include "numbers.h"

namespace gaussreg::GAUSSREG_ISA {

// One step of the task, on W numbers. `grad` may be theta.
template <DriftTask Task, class T, class B>
GAUSSREG_INLINE void drift_step(T* theta, const B* base, T* grad, float factor, vf& sum) {
  const vf d = T::read(theta) - B::read(base);
  sum += d * d;
  if constexpr (Task == DriftTask::kGradient) store(grad, T::rounded(factor * d));
  if constexpr (Task == DriftTask::kStream) stream(grad, T::rounded(factor * d));
  if constexpr (Task == DriftTask::kAccumulate) store(grad, T::rounded(T::read(grad) + factor * d));
}

constexpr bool has_grad(DriftTask task) {
  return task != DriftTask::kValue;
}

// Runs the task on `size` neighbouring numbers and returns the sum of d^2. It computes in float32,
// but adds the sums of a few hundred vectors in float64.
template <DriftTask Task, class T, class B>
static double drift_chunk(T* theta, const B* base, T* grad, std::int64_t size, float factor) {
  constexpr std::int64_t kBlock = 4096, kParts = 4;
  constexpr bool kHasBase = !std::is_same_v<B, Nothing>;
  constexpr bool kHasGrad = has_grad(Task);
  vd total{};
  std::int64_t i = 0;
  while (i + W <= size) {
    const std::int64_t end = i + kBlock < size ? i + kBlock : size;
    vf part[kParts] = {};
    for (; i + kParts * W <= end; i += kParts * W)
      for (int k = 0; k < kParts; ++k)
        drift_step<Task>(theta + i + k * W, kHasBase ? base + i + k * W : base,
                         kHasGrad ? grad + i + k * W : grad, factor, part[k]);
    for (; i + W <= end; i += W)
      drift_step<Task>(theta + i, kHasBase ? base + i : base, kHasGrad ? grad + i : grad, factor,
                       part[0]);
    total += widen((part[0] + part[1]) + (part[2] + part[3]));
  }
  if (const std::int64_t rest = size - i; rest > 0) {
    T last[W] = {}, out[W] = {};
    B from[W] = {};
    __builtin_memcpy(last, theta + i, rest * sizeof(T));
    if constexpr (kHasBase) __builtin_memcpy(from, base + i, rest * sizeof(B));
    if constexpr (Task == DriftTask::kAccumulate)
      __builtin_memcpy(out, grad + i, rest * sizeof(T));
    vf part{};
    // So few numbers are not streamed past the cache.
    drift_step<Task == DriftTask::kStream ? DriftTask::kGradient : Task>(last, from, out, factor,
                                                                         part);
    total += widen(part);
    if constexpr (kHasGrad) __builtin_memcpy(grad + i, out, rest * sizeof(T));
  }
  return sum(total);
}

template <DriftTask Task, class T, class B>
static double drift_part(const DriftTensor& t, std::int64_t from, std::int64_t size) {
  const B* base = nullptr;
  if constexpr (!std::is_same_v<B, Nothing>) base = static_cast<const B*>(t.base) + from;
  T* grad = nullptr;
  if constexpr (has_grad(Task)) grad = static_cast<T*>(t.grad) + from;
  if constexpr (Task == DriftTask::kStream)
    if (reinterpret_cast<std::uintptr_t>(grad) % sizeof(vf))  // streaming stores need alignment
      return drift_chunk<DriftTask::kGradient>(static_cast<T*>(t.theta) + from, base, grad, size,
                                               t.factor);
  return drift_chunk<Task>(static_cast<T*>(t.theta) + from, base, grad, size, t.factor);
}

template <DriftTask Task, class T>
static double drift_from(const DriftTensor& t, std::int64_t from, std::int64_t size) {
  switch (t.base_type) {
    case Number::kFloat: return drift_part<Task, T, Float>(t, from, size);
    case Number::kBfloat16: return drift_part<Task, T, Bfloat16>(t, from, size);
    case Number::kHalf: return drift_part<Task, T, Half>(t, from, size);
    default: return drift_part<Task, T, Nothing>(t, from, size);
  }
}

template <DriftTask Task>
static double drift_of(const DriftTensor& t, std::int64_t from, std::int64_t size) {
  switch (t.theta_type) {
    case Number::kBfloat16: return drift_from<Task, Bfloat16>(t, from, size);
    case Number::kHalf: return drift_from<Task, Half>(t, from, size);
    default: return drift_from<Task, Float>(t, from, size);
  }
}

// This thread's chunks: those that begin in its share of all numbers.
template <DriftTask Task>
static void drift_task(const DriftJob& job, const Team& team) {
  const auto [begin, end] = team.share(job.total);
  std::int64_t position = 0, chunk = 0;
  for (std::int64_t i = 0; i < job.count && position < end; ++i) {
    const DriftTensor& t = job.tensors[i];
    if (position + t.size <= begin) {
      position += t.size;
      chunk += (t.size + kDriftChunk - 1) / kDriftChunk;
      continue;
    }
    for (std::int64_t from = 0; from < t.size; from += kDriftChunk, ++chunk) {
      const std::int64_t size = t.size - from < kDriftChunk ? t.size - from : kDriftChunk;
      if (position + from < begin || position + from >= end) continue;
      job.partials[chunk] = t.scale * drift_of<Task>(t, from, size);
    }
    position += t.size;
  }
  if constexpr (Task == DriftTask::kStream) stream_fence();
}

static void drift(const DriftJob& job, const Team& team) {
  switch (job.task) {
    case DriftTask::kValue: return drift_task<DriftTask::kValue>(job, team);
    case DriftTask::kGradient: return drift_task<DriftTask::kGradient>(job, team);
    case DriftTask::kStream: return drift_task<DriftTask::kStream>(job, team);
    case DriftTask::kAccumulate: return drift_task<DriftTask::kAccumulate>(job, team);
  }
}

}  // namespace gaussreg::GAUSSREG_ISA
