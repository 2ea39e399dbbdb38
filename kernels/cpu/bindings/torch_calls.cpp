#include "torch_calls.h"

#include <limits>

namespace nb = nanobind;

namespace gaussreg {
namespace {

nb::object attribute(const nb::object& owner, const nb::object& name) {
  return nb::steal(PyObject_GetAttr(owner.ptr(), name.ptr()));
}

std::int64_t number(const nb::object& value) {
  const long long n = PyLong_AsLongLong(value.ptr());
  if (n == -1 && PyErr_Occurred()) throw nb::python_error();
  return n;
}

nb::object interned(const char* name) { return nb::steal(PyUnicode_InternFromString(name)); }

}  // namespace

TorchCalls::TorchCalls(nb::handle exchange, nb::tuple types, nb::dict found)
    : reader_(exchange, types),
      modes_(found["modes"]),
      trace_(found["trace"]),
      transforms_(found["transforms"]),
      forward_ad_(found["forward_ad"]),
      level_(interned("_current_level")),
      is_neg_(found["is_neg"]),
      storage_offset_(found["storage_offset"]),
      requires_grad_(interned("requires_grad")),
      is_grad_enabled_(found["is_grad_enabled"]),
      get_num_threads_(found["get_num_threads"]),
      empty_like_(found["empty_like"]),
      scalar_(found["scalar"]),
      increment_version_(found["increment_version"]),
      random_(found["random_"]),
      scratch_(found["scratch"]),
      seed_(interned("seed")),
      low_(nb::int_(std::numeric_limits<std::int64_t>::min())),
      high_(nb::int_(std::numeric_limits<std::int64_t>::max())),
      generator_(nb::make_tuple(interned("generator"))) {}

bool TorchCalls::direct() const {
  const nb::object level = attribute(forward_ad_, level_);
  if (!level.is_valid()) throw nb::python_error();
  return number(level) < 0 && number(modes_()) == 0 && trace_().is_none() &&
         transforms_().is(nb::handle(Py_False));
}

bool TorchCalls::read(nb::handle x, Numbers& out) const {
  if (!reader_.read(x, out) || !is_neg_(x).is(nb::handle(Py_False))) return false;
  // Freed memory begins at address 0.
  const std::int64_t offset = number(storage_offset_(x)) * bytes_of(out.type);
  return out.size && reinterpret_cast<std::intptr_t>(out.data) != offset;
}

bool TorchCalls::records(nb::handle x) const {
  const nb::object wanted = attribute(nb::borrow(x), requires_grad_);
  if (!wanted.is_valid()) throw nb::python_error();
  return wanted.is(nb::handle(Py_True)) && is_grad_enabled_().is(nb::handle(Py_True));
}

int TorchCalls::threads() const { return static_cast<int>(number(get_num_threads_())); }

std::int64_t TorchCalls::seed(nb::handle generator) const {
  const nb::object own = attribute(scratch_, seed_);
  if (!own.is_valid()) throw nb::python_error();
  PyObject* arguments[] = {own.ptr(), low_.ptr(), high_.ptr(), generator.ptr()};
  const bool given = !generator.is_none();
  const nb::object drawn = nb::steal(
      PyObject_Vectorcall(random_.ptr(), arguments, 3, given ? generator_.ptr() : nullptr));
  if (!drawn.is_valid()) throw nb::python_error();
  const void* address = reader_.address(own);
  if (!address) throw std::runtime_error("the seed cannot be read");
  return *static_cast<const std::int64_t*>(address);
}

}  // namespace gaussreg
