// The Python face of path KL: raw addresses, validated by gaussreg_fast/backends/native.
#pragma once

#include <nanobind/nanobind.h>

namespace gaussreg {

void bind_path_kl(nanobind::module_& m);

}  // namespace gaussreg
