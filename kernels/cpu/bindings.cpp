// The Python face of the CPU kernels. It takes raw addresses: shapes, dtypes
// and contiguity are validated in gaussreg_fast/native.py, the only caller.
#include <nanobind/nanobind.h>

#include <cstdint>

#include "permutation.h"

namespace nb = nanobind;

NB_MODULE(_native, m) {
  m.doc() = "Compiled CPU kernels of gaussreg_fast.";
  m.def(
      "permutation",
      [](std::int64_t seed, std::uint64_t sample, std::int64_t size, bool inverse,
         std::uintptr_t out) {
        nb::gil_scoped_release release;
        gaussreg::permutation(static_cast<std::uint64_t>(seed), sample, size, inverse,
                              reinterpret_cast<std::int64_t*>(out));
      },
      nb::arg("seed"), nb::arg("sample"), nb::arg("size"), nb::arg("inverse"), nb::arg("out"),
      "Writes permutation v1 of 0..size-1 as int64 to the address `out`.");
}
