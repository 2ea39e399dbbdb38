// The Python interface of path KL: raw addresses, checked by gaussreg_fast/backends/native.
#pragma once

#include <nanobind/nanobind.h>

namespace gaussreg {

void bind_path_kl(nanobind::module_& m);

}  // namespace gaussreg
