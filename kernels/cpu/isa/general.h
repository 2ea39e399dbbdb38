// Passes over samples of any size: moments alone, and the passes around the transforms of the
// general route. Threads share the samples of a batch; for moments alone also a single sample.
#pragma once

#include "blocks.h"
#include "moments.h"
#include "numbers.h"

namespace gaussreg::GAUSSREG_ISA {

template <int K, class T>
static void sum_powers(const T* x, std::int64_t size, double* sums) {
  constexpr std::int64_t kPart = 32 * W;
  PowerSums<K> total;
  std::int64_t i = 0;
  for (; i + 2 * W <= size;) {
    PowerPart<K> part;
    const std::int64_t end = size - i < kPart ? size : i + kPart;
    for (; i + 2 * W <= end; i += 2 * W) part.add(T::read(x + i), T::read(x + i + W));
    total.add(part);
  }
  if (i < size) {
    T last[2 * W] = {};
    __builtin_memcpy(last, x + i, (size - i) * sizeof(T));
    PowerPart<K> part;
    part.add(T::read(last), T::read(last + W));
    total.add(part);
  }
  total.write(sums);
}

// out = polynomial(x), or with `accumulate` out += polynomial(x).
template <int K, bool accumulate, class T, class G>
static void add_polynomial(const T* x, const float* coefficient, std::int64_t size, G* out) {
  const auto step = [&](const T* from, G* to) {
    vf value = polynomial<K>(T::read(from), coefficient);
    if constexpr (accumulate) value = G::read(to) + value;
    store(to, G::rounded(value));
  };
  std::int64_t i = 0;
  for (; i + W <= size; i += W) step(x + i, out + i);
  if (i < size) {
    T last[W] = {};
    G rest[W] = {};
    __builtin_memcpy(last, x + i, (size - i) * sizeof(T));
    __builtin_memcpy(rest, out + i, (size - i) * sizeof(G));
    step(last, rest);
    __builtin_memcpy(out + i, rest, (size - i) * sizeof(G));
  }
}

static void moments(const Job& job, char* work, const Team& team) {
  auto* partials = reinterpret_cast<Partial*>(work);
  const bool alone = job.batch >= team.size();
  const Team group = alone ? Team(0, 1) : team;
  if (alone) partials += team.rank();
  const Team::Range samples = alone ? team.share(job.batch) : Team::Range{0, job.batch};
  const Team::Range part = group.share(job.size, 32 * W);
  with_numbers(job, [&](auto number, auto grad_number) {
    using T = decltype(number);
    using G = decltype(grad_number);
    with_degree(job.orders.highest, [&](auto degree) {
      constexpr int K = degree();
      for (std::int64_t b = samples.begin; b < samples.end; ++b) {
        const std::int64_t count = part.end - part.begin;
        const T* x = rows<T>(job.x, job, b) + part.begin;
        sum_powers<K>(x, count, partials[group.rank()].sums);
        group.barrier();
        float coefficient[kMaxOrder];
        finish(job, b, means(job, partials, group), 0, group.rank() == 0, coefficient);
        if (job.grad)
          add_polynomial<K, false>(x, coefficient, count, rows<G>(job.grad, job, b) + part.begin);
        group.barrier();
      }
    });
  });
}

static const std::int32_t* table_of(const Job& job, const std::int32_t* table, std::int64_t b) {
  return table && job.permutation.per_sample ? table + b * job.size : table;
}

static void gather(const Job& job, const std::int32_t* table, float* permuted, Means* means,
                   const Team& team) {
  const auto [first, last] = team.share(job.batch);
  for (std::int64_t b = first; b < last; ++b) {
    const float* x = rows<float>(job.x, job, b);
    float* out = permuted + b * job.size;
    const std::int32_t* from = table_of(job, table, b);
    const float scale = job.task == Task::kProject ? unit_scale(x, job.size) : 1;
    for (std::int64_t j = 0; j < job.size; ++j) out[j] = x[from ? from[j] : j] * scale;
    with_degree(job.orders.highest, [&](auto degree) {
      double sums[kMaxOrder] = {};
      sum_powers<degree()>(rows<Float>(job.x, job, b), job.size, sums);
      for (int n = 0; n < kMaxOrder; ++n)
        means[b].powers[n] = sums[n] / static_cast<double>(job.size);
    });
  }
}

// Writes the lengths of the bins of the compact spectrum, and replaces the bins by directions.
static void general_directions(const Job& job, float* y, float* lengths) {
  const bool always = job.task == Task::kProject;
  for (std::int64_t k = 0; k < job.bins(); ++k) {
    float &re = y[2 * k], &im = y[2 * k + 1];
    const float square = re * re + im * im;
    const bool none = square < kFloor * kFloor;
    const float length = none ? 0 : __builtin_sqrtf(square);
    lengths[k] = job.power_statistic ? square : length;
    if (job.power_statistic) continue;
    const float inverse = none ? 0 : length / square;  // NaN if the square overflowed
    re = always && none ? 1 : re * inverse;
    im *= inverse;
  }
}

static void spectrum(const Job& job, float* spectra, const Means* sample_means, float* work,
                     const Team& team) {
  constexpr float root_half = 0.70710678118654752f;
  const std::int64_t width = job.size / 2 + 1, bins = job.bins();
  const bool odd = job.size % 2;
  float* lengths = work + team.rank() * width;
  const auto [first, last] = team.share(job.batch);
  for (std::int64_t b = first; b < last; ++b) {
    float* y = spectra + b * 2 * width + (odd ? 2 : 0);
    if (!odd) {  // y_0 is the real DC and Nyquist bins in one
      y[0] *= root_half;
      y[1] = y[2 * bins] * root_half;
    }
    general_directions(job, y, lengths);
    const double power_loss = weigh(job, b, lengths, nullptr, Team(0, 1));
    if (job.loss || job.moments) {
      float coefficient[kMaxOrder];
      finish(job, b, sample_means[b], power_loss, true, coefficient);
    }
    if (!job.grad) continue;
    for (std::int64_t k = 0; k < bins; ++k) {
      y[2 * k] *= lengths[k] / 2;  // the inverse transform counts a bin and its mirror
      y[2 * k + 1] *= lengths[k] / 2;
    }
    if (odd) {
      y[-2] = y[-1] = 0;
    } else {
      y[2 * bins] = y[1] * 2 * root_half;
      y[2 * bins + 1] = 0;
      y[0] *= 2 * root_half;
      y[1] = 0;
    }
  }
}

static void scatter(const Job& job, const std::int32_t* table, const float* permuted,
                    const Means* sample_means, const Team& team) {
  const auto [first, last] = team.share(job.batch);
  for (std::int64_t b = first; b < last; ++b) {
    const float* from = permuted + b * job.size;
    float* out = rows<float>(job.grad, job, b);
    const std::int32_t* to = table_of(job, table, b);
    for (std::int64_t j = 0; j < job.size; ++j) out[to ? to[j] : j] = from[j];
    if (!job.orders.count) continue;
    float coefficient[kMaxOrder];
    finish(job, b, sample_means[b], 0, false, coefficient);
    with_degree(job.orders.highest, [&](auto degree) {
      add_polynomial<degree(), true>(rows<Float>(job.x, job, b), coefficient, job.size,
                                     rows<Float>(job.grad, job, b));
    });
  }
}

}  // namespace gaussreg::GAUSSREG_ISA
