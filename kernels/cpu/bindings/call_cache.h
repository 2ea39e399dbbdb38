// Calls that repeat an earlier one, in one step from the public function to the kernels.
//
// Most calls of a loop have the same options, an ordinary x, and a sample alone. All that is left
// to check of them is checked here. Anything else is refused, and takes the route through Python,
// which is right for every call.
#pragma once

#include <nanobind/nanobind.h>

#include <cstddef>
#include <vector>

#include "loss.h"
#include "torch_calls.h"

namespace gaussreg {

class CallCache {
 public:
  // `torch` is a TorchCalls. `record` gets x, a loss and its gradient, and returns the loss with
  // its graph.
  CallCache(nanobind::object torch, nanobind::object record);

  // Remembers options that were checked, the generator among them, and the Loss that computes them.
  // They are compared by identity, as in an interpreter's inline caches: that needs neither hashes
  // nor the options' memory. Options that could change are not remembered.
  void keep(nanobind::tuple options, nanobind::object loss, nanobind::object generator, bool seeded,
            bool per_sample);
  // Return the results for x, a seed or None, and the options, in one tuple; None if the call is
  // not taken.
  nanobind::object value_and_grad(nanobind::tuple arguments);
  nanobind::object loss(nanobind::tuple arguments);

 private:
  static constexpr std::size_t kKept = 4;
  struct Entry {
    nanobind::tuple options;
    nanobind::object loss, generator;
    Draws draws;
  };
  struct Results {
    nanobind::object loss, grad;
  };

  // Finds the options that begin at `first`, and moves them to the front.
  const Entry* find(const nanobind::tuple& arguments, std::size_t first);
  // Computes a call whose x was read. Without results if torch made no ordinary tensors for them.
  Results compute(const Entry& entry, nanobind::handle x, const Numbers& in,
                  std::optional<std::int64_t> seed, bool gradient) const;
  template <class Body>
  nanobind::object with_call(const nanobind::tuple& arguments, Body&& body);

  nanobind::object torch_owner_, record_;
  const TorchCalls& torch_;
  std::vector<Entry> entries_;  // the last used first
};

}  // namespace gaussreg
