// The types of the numbers of tensors.
#pragma once

namespace gaussreg {

enum class Number { kNone, kFloat, kBfloat16, kHalf };

}  // namespace gaussreg
