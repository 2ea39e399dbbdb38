// The Python interface of parameter drift.
#pragma once

#include <nanobind/nanobind.h>

namespace gaussreg {

void bind_drift(nanobind::module_& m);

}  // namespace gaussreg
