// The structures that Python passes and receives. Their fields and order are those of ../core.py
// and ../program.py, which compare offsets before the first launch.
#pragma once
#include <cstdint>

using u8 = uint8_t;
using s8 = int8_t;
using u16 = uint16_t;
using s16 = int16_t;
using u32 = uint32_t;
using s32 = int32_t;
using u64 = uint64_t;
using s64 = int64_t;
using f32 = float;
using f64 = double;

// A slot is an offset in a warp's registers: the 32 lanes' values of a register lie together.
struct Instruction {
  s32 opcode;
  s32 predicate;       // slot of the predicate, or -1
  s32 negated;         // whether lanes run it if the predicate is false
  s32 pieces;          // numbers in a vector, matrices
  s32 width;           // bytes of each in memory
  s32 register_bytes;  // bytes of each in a register
  s32 is_signed;       // whether a narrow load extends the sign
  s32 variant;         // transposed; number of the barrier; negated operand
  s32 target;          // of a branch
  s32 address;         // slot of an address's base, or of an operand that is not a number
  s64 offset;          // added to the base
  s32 results[8];
  s32 sources[8];
};

struct Region {
  u64 address;
  u64 size;
  u8* unwritten;  // whether each byte is unwritten, or null
};

struct Finding {
  s32 kind;
  s32 instruction;
  s32 other;  // the instruction that it conflicts with, or -1
  s32 warp;
  s32 lane;
  s32 other_warp;
  s32 other_lane;
  s32 bytes;  // of the two values, or 0
  s64 program;
  u64 address;
  u64 count;
  u64 found;
  u64 written;
};

struct Launch {
  const Instruction* instructions;
  s64 instruction_count;
  const u8* image;  // a warp's registers before the first instruction
  s64 image_bytes;
  s32 thread_slots[3];   // of %tid, or -1
  s32 program_slots[3];  // of %ctaid
  s32 warp_slot;         // of %warpid
  s32 threads[3];
  s64 grid[3];
  s64 shared_bytes;
  s32 shared_cell;  // bytes of a cell of the shadow memory
  s32 global_cell;
  Region* regions;
  s64 region_count;
  u64 seed;
  s64 slice;
  s64 steps;  // largest number of instructions of a program
  s32 shuffled;
  s32 checked;
  f64 ulp;
  u64* executed;  // from here on one number for each instruction
  u64* active;
  u64* wavefronts;
  u64* conflict_free;
  u64* sectors;
  u64* lines;
  u64* moved;
};
