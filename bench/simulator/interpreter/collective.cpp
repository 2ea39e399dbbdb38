// Instructions that exchange values between a warp's lanes.
#include <algorithm>

#include "machine.h"
#include "numbers.h"

// Synchronises lanes. Returns whether all named lanes, and all lanes of the warp, take part.
bool Machine::meet(const Instruction& in, int members_source, u32 lanes) {
  const int first = __builtin_ctz(lanes);
  const u32 members = at<u32>(in.sources[members_source])[first];
  if ((members & warp_->alive) != lanes) report(APART, first, lanes);
  warp_->meeting++;
  return lanes == warp_->alive;
}

// Sources: value, lane or mask, clamp and segments, members.
void Machine::shuffle(const Instruction& in, u32 lanes) {
  meet(in, 3, lanes);
  u32 values[32];
  std::copy_n(at<u32>(in.sources[0]), 32, values);
  const u32 *choice = at<u32>(in.sources[1]), *limits = at<u32>(in.sources[2]);
  u32* out = at<u32>(in.results[0]);
  for (int lane = 0; lane < 32; lane++) {
    if (!(lanes >> lane & 1)) continue;
    const int by = (int)(choice[lane] & 31), clamp = (int)(limits[lane] & 31);
    const int segment = (int)(limits[lane] >> 8 & 31);
    const int lowest = lane & segment, highest = lowest | (clamp & ~segment);
    int from = lane - by;
    if (in.opcode == SHFL_BFLY) from = lane ^ by;
    if (in.opcode == SHFL_DOWN) from = lane + by;
    if (in.opcode == SHFL_IDX) from = lowest | (by & ~segment);
    const bool inside = in.opcode == SHFL_UP ? from >= highest : from <= highest;
    if (!inside) from = lane;
    if (in.results[1] >= 0) at<u32>(in.results[1])[lane] = inside;
    const bool there = lanes >> from & 1;
    if (!there) report(ABSENT_LANE, lane, 0, from);
    out[lane] = there ? values[from] : ~0u;
  }
}

// Sources: predicate, members. activemask has neither.
void Machine::vote(const Instruction& in, u32 lanes) {
  u32* out = at<u32>(in.results[0]);
  u32 holds = lanes;
  if (in.opcode != ACTIVEMASK) {
    meet(in, 1, lanes);
    const u32* predicate = at<u32>(in.sources[0]);
    for (int lane = 0; lane < 32; lane++)
      if ((predicate[lane] != 0) == (in.variant != 0)) holds &= ~(1u << lane);
  }
  u32 result = holds;
  if (in.opcode == VOTE_ALL) result = holds == lanes;
  if (in.opcode == VOTE_ANY) result = holds != 0;
  if (in.opcode == VOTE_UNI) result = holds == lanes || holds == 0;
  for (int lane = 0; lane < 32; lane++)
    if (lanes >> lane & 1) out[lane] = result;
}

// Sources: value, members. Results: the lanes with the same value, whether all have it.
void Machine::match(const Instruction& in, u32 lanes) {
  meet(in, 1, lanes);
  const bool wide = in.opcode == MATCH_ANY_64 || in.opcode == MATCH_ALL_64;
  const bool all = in.opcode == MATCH_ALL_32 || in.opcode == MATCH_ALL_64;
  u64 values[32];
  for (int lane = 0; lane < 32; lane++)
    values[lane] = wide ? at<u64>(in.sources[0])[lane] : at<u32>(in.sources[0])[lane];
  for (int lane = 0; lane < 32; lane++) {
    if (!(lanes >> lane & 1)) continue;
    u32 same = 0;
    for (int other = 0; other < 32; other++)
      if (lanes >> other & 1 && values[other] == values[lane]) same |= 1u << other;
    if (all && same != lanes) same = 0;
    at<u32>(in.results[0])[lane] = same;
    if (in.results[1] >= 0) at<u32>(in.results[1])[lane] = same == lanes;
  }
}

// Sources: members. Results: the lowest lane, whether it is this one.
void Machine::elect(const Instruction& in, u32 lanes) {
  meet(in, 0, lanes);
  const u32 leader = (u32)__builtin_ctz(lanes);
  for (u32 lane = 0; lane < 32; lane++) {
    if (!(lanes >> lane & 1)) continue;
    if (in.results[0] >= 0) at<u32>(in.results[0])[lane] = leader;
    at<u32>(in.results[1])[lane] = lane == leader;
  }
}

static u32 float_extreme(s32 opcode, u32 left, u32 right) {
  f32 a = bits_as<f32>(left), b = bits_as<f32>(right);
  switch (opcode) {
    case REDUX_MIN_ABS_F32:
    case REDUX_MAX_ABS_F32:
    case REDUX_MIN_ABS_NAN_F32:
    case REDUX_MAX_ABS_NAN_F32:
      a = std::fabs(a), b = std::fabs(b);
  }
  switch (opcode) {
    case REDUX_MIN_F32:
    case REDUX_MIN_ABS_F32:
      return bits_as<u32>(smaller(a, b));
    case REDUX_MAX_F32:
    case REDUX_MAX_ABS_F32:
      return bits_as<u32>(larger(a, b));
    case REDUX_MIN_NAN_F32:
    case REDUX_MIN_ABS_NAN_F32:
      return bits_as<u32>(smaller_or_nan(a, b));
    default:
      return bits_as<u32>(larger_or_nan(a, b));
  }
}

static u32 joined(s32 opcode, u32 a, u32 b) {
  switch (opcode) {
    case REDUX_ADD_S32:
    case REDUX_ADD_U32:
      return a + b;
    case REDUX_MIN_S32:
      return (u32)std::min((s32)a, (s32)b);
    case REDUX_MAX_S32:
      return (u32)std::max((s32)a, (s32)b);
    case REDUX_MIN_U32:
      return std::min(a, b);
    case REDUX_MAX_U32:
      return std::max(a, b);
    case REDUX_AND_B32:
      return a & b;
    case REDUX_OR_B32:
      return a | b;
    case REDUX_XOR_B32:
      return a ^ b;
    default:
      return float_extreme(opcode, a, b);
  }
}

// Sources: value, members.
void Machine::reduce(const Instruction& in, u32 lanes) {
  meet(in, 1, lanes);
  const u32* values = at<u32>(in.sources[0]);
  const int first = __builtin_ctz(lanes);
  u32 result = values[first];
  // A single lane's number is reduced too, because the instruction may remove its sign.
  if (in.opcode >= REDUX_MIN_F32) result = float_extreme(in.opcode, result, result);
  for (int lane = first + 1; lane < 32; lane++)
    if (lanes >> lane & 1) result = joined(in.opcode, result, values[lane]);
  for (int lane = 0; lane < 32; lane++)
    if (lanes >> lane & 1) at<u32>(in.results[0])[lane] = result;
}
