// The Python face of path KL: raw addresses, validated by gaussreg_fast/backends/native.
#pragma once

#include <nanobind/nanobind.h>

namespace gaussreg {

void bind_path(nanobind::module_& m);

}  // namespace gaussreg
