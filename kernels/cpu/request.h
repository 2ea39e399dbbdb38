// What Python asks for, checked and handed to the kernels. No Python in here.
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

// Exceptions of a name that is not known, of orders that are none.
Task task_of(const std::string& name);
Form form_of(const std::string& name);
Orders orders_of(const std::vector<int>& list);

// What a task is, without its tensors.
Job options_of(Task task, const std::string& form, double power_weight, std::int64_t block_size,
               double target, bool power_statistic, const std::vector<int>& orders);

// Threads that have some ten microseconds of work each: less is not worth waking them for.
int useful_threads(std::int64_t elements, int threads);

// A job and the threads to do it. Results that are not wanted have no address.
struct Request {
  Job job{};
  int threads = 1;

  // All of it at once; needs has_plan(job.size).
  void fused() const;
  // The loss of moments alone.
  void moments() const;
  // The general route: permuted samples, and means of their powers; from spectra to results, and to
  // spectra of the gradient; the gradient by x.
  void gather(Address table, Address permuted, Address means) const;
  void spectrum(Address spectra, Address means) const;
  void scatter(Address table, Address permuted, Address means) const;

 private:
  int members() const;
};

}  // namespace gaussreg
