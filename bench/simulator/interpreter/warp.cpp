// The instruction loop of one warp.
#include <algorithm>

#include "arithmetic.h"
#include "machine.h"

// Runs a warp for a number of instructions, or to its next barrier.
void Machine::run_warp(int index, s64 budget) {
  warp_ = &warps_[index];
  registers_ = all_registers_.data() + (size_t)index * launch_.image_bytes;
  now_.warp = index;
  for (; budget > 0; budget--) {
    Group* group = next_group(*warp_);
    if (!group) {
      warp_->at_barrier = !warp_->groups.empty();
      return;
    }
    step(*group);
  }
}

// Returns the lanes that are furthest behind, or null if all wait or have exited. Diverged lanes
// meet again at the instruction where their branches join.
Group* Machine::next_group(Warp& warp) {
  std::vector<Group>& groups = warp.groups;
  if (groups.size() == 1 && groups[0].lanes && !groups[0].waiting) return &groups[0];
  auto empty = [](const Group& group) { return group.lanes == 0; };
  groups.erase(std::remove_if(groups.begin(), groups.end(), empty), groups.end());
  Group* first = nullptr;
  for (Group& group : groups) {
    if (group.waiting) continue;
    if (first && first->at == group.at) {
      first->lanes |= group.lanes;
      group.lanes = 0;
    } else if (!first || group.at < first->at) {
      first = &group;
    }
  }
  return first;
}

u32 Machine::predicated(const Instruction& in, u32 lanes) const {
  if (in.predicate < 0) return lanes;
  const u32* predicate = at<u32>(in.predicate);
  u32 holds = 0;
  for (int lane = 0; lane < 32; lane++) holds |= (u32)(predicate[lane] != 0) << lane;
  return lanes & (in.negated ? ~holds : holds);
}

template <class T>
static void copy_lanes(u8* to, const u8* from, u32 lanes) {
  T* out = reinterpret_cast<T*>(to);
  const T* in = reinterpret_cast<const T*>(from);
  for (int lane = 0; lane < 32; lane++) out[lane] = lanes >> lane & 1 ? in[lane] : out[lane];
}

void Machine::step(Group& group) {
  const s32 number = group.at;
  if (number >= launch_.instruction_count) {  // the end of the kernel without ret
    warp_->alive &= ~group.lanes;
    group.lanes = 0;
    return;
  }
  const Instruction& in = launch_.instructions[number];
  const u32 lanes = predicated(in, group.lanes);
  steps_++;
  now_.instruction = number;
  launch_.executed[number]++;
  launch_.active[number] += (u64)__builtin_popcount(lanes);
  group.at++;
  if (lanes == 0) return;
  switch (in.opcode) {
    case NOP:
      return;
    case BRA:
      return branch(in, group, lanes);
    case RET:
      group.lanes &= ~lanes;
      warp_->alive &= ~lanes;
      return;
    case BAR_SYNC:
      return wait(in, group, lanes);
  }
  if (in.opcode <= LAST_SPECIAL) return special(in, lanes);
  const Arithmetic arithmetic = ARITHMETIC[(in.opcode - LAST_SPECIAL - 1) % ARITHMETIC_PARTS];
  u8* result = registers_ + in.results[0];
  if (lanes == ~0u) {
    arithmetic(in, registers_, result, launch_.ulp);
    return;
  }
  alignas(64) u8 computed[32 * 8];
  const int bytes = arithmetic(in, registers_, computed, launch_.ulp);
  if (bytes == 4) copy_lanes<u32>(result, computed, lanes);
  else if (bytes == 8) copy_lanes<u64>(result, computed, lanes);
  else copy_lanes<u16>(result, computed, lanes);
}

void Machine::branch(const Instruction& in, Group& group, u32 lanes) {
  if (lanes == group.lanes) {
    group.at = in.target;
    return;
  }
  if (in.variant) report(APART, __builtin_ctz(lanes), lanes);  // bra.uni
  group.lanes &= ~lanes;
  warp_->groups.push_back({in.target, lanes, false});  // the reference ends here
}

void Machine::wait(const Instruction& in, Group& group, u32 lanes) {
  (void)in;
  if (lanes != warp_->alive) report(BARRIER_APART, __builtin_ctz(lanes), lanes);
  if (lanes == group.lanes) {
    group.waiting = true;
    return;
  }
  const s32 next = group.at;
  group.lanes &= ~lanes;
  warp_->groups.push_back({next, lanes, true});
}

void Machine::special(const Instruction& in, u32 lanes) {
  switch (in.opcode) {
    case BAR_WARP_SYNC:
      if (meet(in, 0, lanes)) warp_->phase++;
      return;
    case PACK:
      return pack(in, lanes);
    case UNPACK:
      return unpack(in, lanes);
    case LD_GLOBAL:
    case ST_GLOBAL:
      return global_access(in, lanes);
    case LD_SHARED:
    case ST_SHARED:
      return shared_access(in, lanes);
    case LDMATRIX:
    case STMATRIX:
      return matrix_access(in, lanes);
    case SHFL_BFLY:
    case SHFL_IDX:
    case SHFL_UP:
    case SHFL_DOWN:
      return shuffle(in, lanes);
    case VOTE_ALL:
    case VOTE_ANY:
    case VOTE_UNI:
    case VOTE_BALLOT:
    case ACTIVEMASK:
      return vote(in, lanes);
    case ELECT:
      return elect(in, lanes);
    case MATCH_ANY_32:
    case MATCH_ANY_64:
    case MATCH_ALL_32:
    case MATCH_ALL_64:
      return match(in, lanes);
    default:
      return reduce(in, lanes);
  }
}
