// The description of a call, and the table of kernels that an instruction set has for it.
#pragma once

#include <cstdint>

#include "drift_job.h"
#include "plan.h"
#include "team.h"
#include "terms.h"

namespace gaussreg {

// The permutation of a batch: none, drawn from a seed, or an index; one for all samples or one
// each.
struct Permutation {
  enum class Source { kNone, kSeed, kIndex } source = Source::kNone;
  bool per_sample = false;
  std::uint64_t seed = 0;
  const std::int64_t* index = nullptr;  // (D,) or (B, D), bijections
};

// The results that a call computes from each sample.
enum class Task {
  kLoss,        // x -> loss, and its gradient if `grad` is not null
  kStatistics,  // x -> moments, amplitudes
  kPullback,    // x, grad_moments, grad_amplitudes -> grad
  kProject,     // x -> the nearest white noise, in `grad`
};

// Half types are for losses by `fused` and by `moments`; all else has float32.
struct Job {
  Task task;
  std::int64_t batch, size;
  const void* x;  // (B, D)
  Number x_type = Number::kFloat;
  Permutation permutation;
  Orders orders;
  Form form = Form::kRoot;
  double power_weight = 0;  // 0: no spectrum
  std::int64_t block_size = 0;
  double target = 0;
  bool power_statistic = false;  // |y|^2 in place of |y|
  double scale = 1;    // of the gradient
  float* loss = nullptr;        // (B,)
  void* grad = nullptr;         // (B, D)
  Number grad_type = Number::kFloat;  // x's, or float32 for float16
  // Of a sample outside of a group: whether its gradient is gathered through the inverse permutation,
  // and not scattered. The bits are the same.
  bool gathers = false;
  float* moments = nullptr;     // (B, K)
  float* amplitudes = nullptr;  // (B, P)
  const float* grad_moments = nullptr;
  const float* grad_amplitudes = nullptr;

  bool is_float() const { return x_type == Number::kFloat; }
  std::int64_t bins() const { return size / 2; }
  std::int64_t spectrum_blocks() const { return (bins() + block_size - 1) / block_size; }
};

// Means of the powers of a sample.
struct Means {
  double powers[kMaxOrder];  // the mean of x^n at n - 1
};

// The memory of a call: tables that all threads share, and a slot for each thread that works alone.
struct Workspace {
  char* base;
  std::int64_t shared_bytes, slot_bytes;
  int slots = 1;  // number of slots; if there are fewer than threads, these share a sample
  char* slot(int rank) const { return base + shared_bytes + rank * slot_bytes; }
};

// Path KL of dmu (steps, batch, size), sigma (steps, batch) or (steps,).
struct PathKLJob {
  std::int64_t steps, batch, size;
  const float* dmu;
  const float* sigma;
  bool per_sample;        // whether sigma is (steps, batch)
  const float* upstream;  // (batch,), factors of the gradient; null for 1
  float* kl;              // (batch,), or null if only the gradient is wanted
  float* costs;           // (steps, batch), written with kl
  float* grad;            // like dmu, or null
  double* partials;       // with kl: a number for each kPathPart elements of each row
};
constexpr std::int64_t kPathPart = 16384;

constexpr int kMaxTeam = 256;  // threads of a call

struct Kernels {
  const char* name;
  // Elements begin..end-1 of permutation v1, as int32 or int64.
  void (*permutation32)(std::uint64_t seed, std::uint64_t sample, std::int64_t size, bool inverse,
                        std::int64_t begin, std::int64_t end, std::int32_t* out);
  void (*permutation64)(std::uint64_t seed, std::uint64_t sample, std::int64_t size, bool inverse,
                        std::int64_t begin, std::int64_t end, std::int64_t* out);
  // Whether it makes permutations of this size in a fraction of the time of moving the numbers.
  bool (*quick_permutation)(std::int64_t size);
  // A whole job, for sizes that have a plan. The first tells the sizes of the workspace; the caller
  // gives it memory and calls the second.
  Workspace (*fused_workspace)(const Job& job);
  void (*fused)(const Job& job, const Plan& plan, const Workspace& work, const Team& team);
  // The loss of moments alone, any size.
  std::int64_t moments_workspace;  // bytes
  void (*moments)(const Job& job, char* work, const Team& team);
  // The general route, around transforms by the caller. `gather` permutes samples and computes the
  // means of their powers, (B,).
  void (*gather)(const Job& job, const std::int32_t* table, float* permuted, Means* means,
                 const Team& team);
  // `spectrum` computes the results from spectra (B, D // 2 + 1), complex and orthonormal, and
  // overwrites these with the input of the inverse transform; `work` has D // 2 + 1 floats a
  // thread.
  void (*spectrum)(const Job& job, float* spectrum, const Means* means, float* work,
                   const Team& team);
  // `scatter` computes the gradient by x from the gradient by the permuted samples.
  void (*scatter)(const Job& job, const std::int32_t* table, const float* permuted,
                  const Means* means, const Team& team);
  void (*path_kl)(const PathKLJob& job, const Team& team);
  // For benchmarks: seconds of each of kStages on one sample, the best of some runs.
  void (*stages)(const Job& job, const Plan& plan, const Workspace& work, int repeats,
                 double* seconds);
  // Parameter drift over a list of tensors.
  void (*drift)(const DriftJob& job, const Team& team);
};

constexpr const char* kStages[] = {"permutation table",
                                   "gather, moments, first passes",
                                   "other passes forward",
                                   "directions",
                                   "block means",
                                   "adjoint of directions",
                                   "other passes back",
                                   "last passes, scatter",
                                   "whole sample after the table",
                                   "bare gather",
                                   "bare scatter",
                                   "bare copy",
                                   "a cycle per number"};

// The kernels of the best instruction set that this processor has, or of the one that the
// environment variable GAUSSREG_FAST_ISA names, for tests. Throws if that one cannot run.
const Kernels& kernels();

// Whether a random store takes this processor twice as long as a random load; the environment variable
// GAUSSREG_FAST_STORES says otherwise with "slow" or "fast", for tests.
bool stores_slowly();

}  // namespace gaussreg
