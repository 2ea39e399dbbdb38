// A launch: its programs one after the other, each with warps that run alone between barriers.
#pragma once
#include <vector>

#include "shadow.h"

// Lanes of a warp at one instruction. Diverged lanes run in the order of their instructions.
struct Group {
  s32 at;
  u32 lanes;
  bool waiting;  // at a barrier
};

struct Warp {
  std::vector<Group> groups;
  u32 alive;
  u32 phase;    // counts barriers
  u32 meeting;  // counts instructions that synchronise lanes
  bool at_barrier;
};

class Machine {
 public:
  explicit Machine(const Launch& launch);
  void run();
  const std::vector<Finding>& findings() const { return findings_.all(); }
  u64 barriers() const { return barriers_; }

 private:
  // machine.cpp
  bool run_program(s64 index);
  void start_warps(s64 index);
  void fill_slots(u8* registers, s64 index, int warp);
  void release_barrier();
  u64 random();
  u32 alive_from_start(int warp) const;

  // warp.cpp
  void run_warp(int warp, s64 budget);
  Group* next_group(Warp& warp);
  void step(Group& group);
  u32 predicated(const Instruction& in, u32 lanes) const;
  void branch(const Instruction& in, Group& group, u32 lanes);
  void wait(const Instruction& in, Group& group, u32 lanes);
  void special(const Instruction& in, u32 lanes);

  // memory.cpp
  void global_access(const Instruction& in, u32 lanes);
  void shared_access(const Instruction& in, u32 lanes);
  bool shared_allowed(int lane, u64 address, int size, const u8* data);
  bool global_allowed(int lane, u64 address, int size, const u8* data);
  s64 region_of(u64 address, int size);
  void pack(const Instruction& in, u32 lanes);
  void unpack(const Instruction& in, u32 lanes);

  // matrix.cpp
  void matrix_access(const Instruction& in, u32 lanes);
  void matrix_row(const Instruction& in, int matrix, int row, u64 address);

  // collective.cpp
  bool meet(const Instruction& in, int members_source, u32 lanes);
  void shuffle(const Instruction& in, u32 lanes);
  void vote(const Instruction& in, u32 lanes);
  void match(const Instruction& in, u32 lanes);
  void elect(const Instruction& in, u32 lanes);
  void reduce(const Instruction& in, u32 lanes);

  void report(int kind, int lane, u64 address, int other_lane = -1);
  template <class T>
  T* at(s32 slot) const {
    return reinterpret_cast<T*>(registers_ + slot);
  }

  const Launch& launch_;
  Findings findings_;
  std::vector<u8> all_registers_, shared_;
  std::vector<Warp> warps_;
  std::vector<Shadow> shared_shadow_, global_shadow_;  // one, and one for each region; or none
  Moment now_{};
  u8* registers_ = nullptr;  // of the running warp
  Warp* warp_ = nullptr;
  s64 last_region_ = 0, steps_ = 0;
  u64 random_state_, barriers_ = 0;
};
