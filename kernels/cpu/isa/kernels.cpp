// The kernels of one instruction set. The file is compiled once for each, see CMakeLists.txt, and
// exports nothing but this table of functions.
#include "drift.h"
#include "fused.h"
#include "general.h"
#include "path_kl.h"
#include "stages.h"

namespace gaussreg::GAUSSREG_ISA {

#define GAUSSREG_STRING_(x) #x
#define GAUSSREG_STRING(x) GAUSSREG_STRING_(x)

extern const Kernels table;
const Kernels table{
    GAUSSREG_STRING(GAUSSREG_ISA),
    permutation<std::int32_t>,
    permutation<std::int64_t>,
    quick_permutation,
    fused_workspace,
    fused,
    kMaxTeam * sizeof(Partial),
    moments,
    gather,
    spectrum,
    scatter,
    path_kl,
    stages,
    drift,
};

}  // namespace gaussreg::GAUSSREG_ISA
