// The switch over all arithmetic instructions, in parts that compile side by side.
#pragma once
#include "layout.h"

// Computes all 32 lanes' results into `to`. Returns a result's bytes.
using Arithmetic = int (*)(const Instruction& in, const u8* registers, u8* to, f64 ulp);
int arithmetic_0(const Instruction& in, const u8* registers, u8* to, f64 ulp);
int arithmetic_1(const Instruction& in, const u8* registers, u8* to, f64 ulp);
int arithmetic_2(const Instruction& in, const u8* registers, u8* to, f64 ulp);
int arithmetic_3(const Instruction& in, const u8* registers, u8* to, f64 ulp);
constexpr int ARITHMETIC_PARTS = 4;
constexpr Arithmetic ARITHMETIC[ARITHMETIC_PARTS] = {arithmetic_0, arithmetic_1, arithmetic_2,
                                                     arithmetic_3};
