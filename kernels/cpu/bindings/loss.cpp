#include "loss.h"

namespace nb = nanobind;

namespace gaussreg {

bool Loss::takes(const Numbers& x) const {
  if (x.dims < 2 || !x.size || !x.data) return false;
  const std::int64_t size = x.size / x.shape[0];
  if (alone()) return size <= std::int64_t{1} << 31;
  return has_plan(size) && options_.block_size >= 1 && options_.block_size <= size / 2;
}

bool Loss::fit(const Numbers& x, const Numbers& loss, const Numbers* grad) {
  if (loss.type != Number::kFloat || !loss.data || loss.size != x.shape[0]) return false;
  if (!grad) return true;
  const bool kept = x.type == Number::kHalf && grad->type == Number::kFloat;
  return (grad->type == x.type || kept) && grad->data && grad->same_shape(x);
}

void Loss::fill(const Numbers& x, const Numbers& loss, const Numbers* grad,
                const Permutation& permutation, double scale, int threads) const {
  Request request{options_, useful_threads(x.size, threads)};
  Job& job = request.job;
  job.batch = x.shape[0];
  job.size = x.size / job.batch;
  job.x = x.data;
  job.x_type = x.type;
  job.loss = static_cast<float*>(loss.data);
  if (grad) {
    job.grad = grad->data;
    job.grad_type = grad->type;
  }
  job.scale = scale;
  job.permutation = permutation;
  const nb::gil_scoped_release released;
  if (alone())
    request.moments_alone();
  else
    request.fused();
}

bool Draws::given(nb::handle seed, std::optional<std::int64_t>& out) {
  if (seed.is_none()) return true;
  if (!PyLong_CheckExact(seed.ptr())) return false;
  int overflow = 0;
  out = PyLong_AsLongLongAndOverflow(seed.ptr(), &overflow);
  return !overflow;
}

Permutation Draws::of(std::int64_t seed) const {
  if (!seeded) return {};
  return {Permutation::Source::kSeed, per_sample, static_cast<std::uint64_t>(seed)};
}

Permutation Draws::of(std::optional<std::int64_t> seed, const TorchCalls& torch,
                      nb::handle generator) const {
  return seed || !seeded ? of(seed.value_or(0)) : of(torch.seed(generator));
}

}  // namespace gaussreg
