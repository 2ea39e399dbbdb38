#include "request.h"

#include <algorithm>
#include <stdexcept>
#include <utility>

#include "memory.h"
#include "named.h"

namespace gaussreg {

Form form_of(const std::string& name) {
  static const std::pair<const char*, Form> forms[] = {
      {"root", Form::kRoot}, {"absolute", Form::kAbsolute}, {"squared", Form::kSquared},
      {"kl", Form::kKl},     {"kurtosis", Form::kKurtosis}, {"norm", Form::kNorm}};
  return named(forms, "form", name);
}

Orders orders_of(const std::vector<int>& list) {
  Orders orders;
  for (const int n : list) {
    if (n < 1 || n > kMaxOrder || orders.count == kMaxOrder)
      throw std::invalid_argument("orders must be at most 8 of 1..8");
    orders.order[orders.count++] = n;
    orders.highest = std::max(orders.highest, n);
  }
  return orders;
}

Task task_of(const std::string& name) {
  static const std::pair<const char*, Task> tasks[] = {{"loss", Task::kLoss},
                                                       {"statistics", Task::kStatistics},
                                                       {"pullback", Task::kPullback},
                                                       {"project", Task::kProject}};
  return named(tasks, "task", name);
}

Job options_of(Task task, const std::string& form, double power_weight, std::int64_t block_size,
               double target, bool power_statistic, const std::vector<int>& orders) {
  Job job{};
  job.task = task;
  job.form = form_of(form);
  job.power_weight = power_weight;
  job.block_size = block_size;
  job.target = target;
  job.power_statistic = power_statistic;
  job.orders = orders_of(orders);
  if (task == Task::kLoss) job.orders.highest = std::max(job.orders.highest, 1);
  return job;
}

int useful_threads(std::int64_t elements, int threads) {
  constexpr std::int64_t kGrain = 8192;
  const std::int64_t pieces = std::max<std::int64_t>(1, elements / kGrain);
  return static_cast<int>(std::min<std::int64_t>(std::min(threads, kMaxTeam), pieces));
}

void Request::fused() const {
  const Kernels& k = kernels();
  if (!has_plan(job.size)) throw std::invalid_argument("size must have a plan");
  const auto p = plan(job.size);
  const int slots = job.batch >= threads ? threads : 1;
  Job chosen = job;
  chosen.gathers = gathers(k, slots);
  Workspace work = k.fused_workspace(chosen);
  work.slots = slots;
  const Memory memory(work.shared_bytes + work.slots * work.slot_bytes);
  work.base = memory.get();
  parallel(threads, [&](const Team& team) { k.fused(chosen, *p, work, team); });
}

// Threads that share a sample would scatter into each other's cache lines. One thread alone gathers if
// the processor stores slowly and the inverse permutation costs less than that.
bool Request::gathers(const Kernels& k, int slots) const {
  if (job.permutation.source != Permutation::Source::kSeed) return false;
  return slots < threads || (stores_slowly() && k.quick_permutation(job.size));
}

void Request::moments_alone() const {
  const Kernels& k = kernels();
  const Memory memory(k.moments_workspace);
  parallel(threads, [&](const Team& team) { k.moments(job, memory.get(), team); });
}

// In the general route threads share samples, never parts of one.
int Request::members() const { return static_cast<int>(std::min<std::int64_t>(threads, job.batch)); }

void Request::gather(Address table, Address permuted, Address means) const {
  const Kernels& k = kernels();  // here, because it may throw, and a thread of the team must not
  parallel(members(), [&](const Team& team) {
    k.gather(job, at<const std::int32_t>(table), at<float>(permuted), at<Means>(means), team);
  });
}

void Request::spectrum(Address spectra, Address means) const {
  const Kernels& k = kernels();
  const std::int64_t each = (job.size / 2 + 1) * static_cast<std::int64_t>(sizeof(float));
  const Memory memory(members() * each);
  auto* work = reinterpret_cast<float*>(memory.get());
  parallel(members(), [&](const Team& team) {
    k.spectrum(job, at<float>(spectra), at<const Means>(means), work, team);
  });
}

void Request::scatter(Address table, Address permuted, Address means) const {
  const Kernels& k = kernels();
  parallel(members(), [&](const Team& team) {
    k.scatter(job, at<const std::int32_t>(table), at<const float>(permuted),
              at<const Means>(means), team);
  });
}

}  // namespace gaussreg
