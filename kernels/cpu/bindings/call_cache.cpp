#include "call_cache.h"

#include <algorithm>
#include <utility>

namespace nb = nanobind;

namespace gaussreg {
namespace {

// Whether an option cannot change: a number, a name, None, a generator, or a tuple of those.
bool is_constant(nb::handle option, nb::handle generator) {
  PyObject* p = option.ptr();
  if (option.is_none() || option.is(generator) || PyBool_Check(p) || PyLong_CheckExact(p) ||
      PyFloat_CheckExact(p) || PyUnicode_CheckExact(p))
    return true;
  if (!PyTuple_CheckExact(p)) return false;
  for (nb::handle each : nb::borrow<nb::tuple>(option))
    if (!is_constant(each, generator)) return false;
  return true;
}

}  // namespace

CallCache::CallCache(nb::object torch, nb::object record)
    : torch_owner_(std::move(torch)),
      record_(std::move(record)),
      torch_(nb::cast<const TorchCalls&>(torch_owner_)) {}

void CallCache::keep(nb::tuple options, nb::object loss, nb::object generator, bool seeded,
                     bool per_sample) {
  if (!is_constant(options, generator) || find(options, 0)) return;
  nb::cast<const Loss&>(loss);  // an error if it is none
  Entry entry{std::move(options), std::move(loss), std::move(generator), {seeded, per_sample}};
  if (entries_.size() < kKept) entries_.emplace_back();
  std::swap(entries_.back(), entry);  // the least recently used ends with this function
  std::rotate(entries_.begin(), entries_.end() - 1, entries_.end());
}

const CallCache::Entry* CallCache::find(const nb::tuple& arguments, std::size_t first) {
  for (auto entry = entries_.begin(); entry != entries_.end(); ++entry) {
    const std::size_t count = entry->options.size();
    bool same = count + first == arguments.size();
    for (std::size_t i = 0; same && i < count; ++i)
      same = entry->options[i].ptr() == arguments[first + i].ptr();
    if (!same) continue;
    std::rotate(entries_.begin(), entry, entry + 1);
    return &entries_.front();
  }
  return nullptr;
}

CallCache::Results CallCache::compute(const Entry& entry, nb::handle x, const Numbers& in,
                                      std::optional<std::int64_t> seed, bool gradient) const {
  Results results{torch_.scalar(), gradient ? torch_.empty_like(x) : nb::none()};
  Numbers value, grad;
  if (!torch_.reader().read(results.loss, value)) return {};
  if (gradient && !torch_.reader().read(results.grad, grad)) return {};
  const Numbers* wanted = gradient ? &grad : nullptr;
  if (!Loss::fit(in, value, wanted)) return {};
  const int threads = torch_.threads();
  const Permutation permutation = entry.draws.of(seed, torch_, entry.generator);
  nb::inst_ptr<Loss>(entry.loss)->fill(in, value, wanted, permutation, 1.0, threads);
  return results;
}

template <class Body>
nb::object CallCache::with_call(const nb::tuple& arguments, Body&& body) {
  const Entry* found = find(arguments, 2);
  if (!found) return nb::none();
  const Entry entry = *found;  // a copy: torch may call Python, and that replace the entry
  Numbers in;
  std::optional<std::int64_t> seed;
  if (!torch_.direct() || !torch_.read(arguments[0], in) || in.dims < 2 || in.shape[0] != 1 ||
      !nb::inst_ptr<Loss>(entry.loss)->takes(in) || !Draws::given(arguments[1], seed))
    return nb::none();
  if (seed && !entry.generator.is_none()) return nb::none();  // an error: they exclude each other
  return body(entry, in, seed);
}

nb::object CallCache::value_and_grad(nb::tuple arguments) {
  const nb::object x = arguments[0];
  return with_call(arguments, [&](const Entry& entry, const Numbers& in, auto seed) {
    const Results results = compute(entry, x, in, seed, true);
    if (!results.loss.is_valid()) return nb::object(nb::none());
    return nb::object(nb::make_tuple(results.loss, results.grad));
  });
}

nb::object CallCache::loss(nb::tuple arguments) {
  const nb::object x = arguments[0];
  return with_call(arguments, [&](const Entry& entry, const Numbers& in, auto seed) {
    const bool records = torch_.records(x);
    // The kept gradient of float16 is float32: `empty_like` does not make it.
    if (records && in.type == Number::kHalf) return nb::object(nb::none());
    const Results results = compute(entry, x, in, seed, records);
    if (!results.loss.is_valid()) return nb::object(nb::none());
    return records ? record_(x, results.loss, results.grad) : results.loss;
  });
}

}  // namespace gaussreg
