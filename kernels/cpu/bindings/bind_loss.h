// The Python interface of the loss of one tensor.
#pragma once

#include <nanobind/nanobind.h>

namespace gaussreg {

void bind_loss(nanobind::module_& m);

}  // namespace gaussreg
