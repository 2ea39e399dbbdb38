// The cost of a warp's access: see traffic.cpp.
#pragma once
#include "layout.h"

// Returns the number of bank accesses of one phase, which is some of a warp's lanes.
int bank_conflicts(const u64* addresses, u32 lanes, int from, int to, int size);
void count_shared(const Launch& launch, s32 at, const u64* addresses, u32 lanes, int size);
void count_global(const Launch& launch, s32 at, const u64* addresses, u32 lanes, int size);
