// A request from Python: its options are checked, and the kernels called. No Python in here.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "job.h"

namespace gaussreg {

using Address = std::uintptr_t;

template <class T>
T* at(Address address) {
  return reinterpret_cast<T*>(address);
}

// They throw for an unknown name, and for orders other than at most 8 of 1..8.
Task task_of(const std::string& name);
Form form_of(const std::string& name);
Orders orders_of(const std::vector<int>& list);

// A job with its options, without its tensors.
Job options_of(Task task, const std::string& form, double power_weight, std::int64_t block_size,
               double target, bool power_statistic, const std::vector<int>& orders);

// The number of threads that have some ten microseconds of work each; less is not worth waking one.
int useful_threads(std::int64_t elements, int threads);

// A job and its number of threads. Results that are not wanted are null.
struct Request {
  Job job{};
  int threads = 1;

  // The whole job by the fused kernels; needs has_plan(job.size).
  void fused() const;
  // The loss of moments alone.
  void moments_alone() const;
  // The general route: permuted samples, and means of their powers; from spectra to results, and to
  // spectra of the gradient; the gradient by x.
  void gather(Address table, Address permuted, Address means) const;
  void spectrum(Address spectra, Address means) const;
  void scatter(Address table, Address permuted, Address means) const;

 private:
  bool gathers(const Kernels& k, int slots) const;
  int members() const;
};

}  // namespace gaussreg
