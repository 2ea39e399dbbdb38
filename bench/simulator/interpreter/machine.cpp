#include "machine.h"

#include <algorithm>
#include <map>
#include <numeric>

Machine::Machine(const Launch& launch)
    : launch_(launch), random_state_(launch.seed * 0x9E3779B97F4A7C15ull + 1) {
  const int threads = launch.threads[0] * launch.threads[1] * launch.threads[2];
  warps_.resize((threads + 31) / 32);
  all_registers_.resize(warps_.size() * launch.image_bytes);
  shared_.resize(launch.shared_bytes);
  if (!launch.checked) return;
  shared_shadow_.emplace_back(true, 0, launch.shared_bytes, launch.shared_cell, findings_);
  for (s64 k = 0; k < launch.region_count; k++) {
    const Region& region = launch.regions[k];
    global_shadow_.emplace_back(false, region.address, region.size, launch.global_cell, findings_);
  }
}

void Machine::run() {
  std::vector<s64> order(launch_.grid[0] * launch_.grid[1] * launch_.grid[2]);
  std::iota(order.begin(), order.end(), 0);
  if (launch_.shuffled)
    for (size_t k = order.size(); k-- > 1;) std::swap(order[k], order[random() % (k + 1)]);
  for (s64 index : order)
    if (!run_program(index)) return;
}

// xorshift64*
u64 Machine::random() {
  random_state_ ^= random_state_ >> 12;
  random_state_ ^= random_state_ << 25;
  random_state_ ^= random_state_ >> 27;
  return random_state_ * 0x2545F4914F6CDD1Dull;
}

u32 Machine::alive_from_start(int warp) const {
  const int threads = launch_.threads[0] * launch_.threads[1] * launch_.threads[2];
  const int left = threads - 32 * warp;
  return left >= 32 ? ~0u : (1u << left) - 1;
}

void Machine::fill_slots(u8* registers, s64 index, int warp) {
  auto put = [&](s32 slot, int lane, s64 value) {
    if (slot >= 0) reinterpret_cast<u32*>(registers + slot)[lane] = (u32)value;
  };
  const s64 program[3] = {index % launch_.grid[0], index / launch_.grid[0] % launch_.grid[1],
                          index / launch_.grid[0] / launch_.grid[1]};
  for (int lane = 0; lane < 32; lane++) {
    int thread = 32 * warp + lane;
    for (int axis = 0; axis < 3; axis++) {
      put(launch_.thread_slots[axis], lane, thread % launch_.threads[axis]);
      thread /= launch_.threads[axis];
      put(launch_.program_slots[axis], lane, program[axis]);
    }
    put(launch_.warp_slot, lane, warp);
  }
}

void Machine::start_warps(s64 index) {
  for (size_t k = 0; k < warps_.size(); k++) {
    u8* registers = all_registers_.data() + k * launch_.image_bytes;
    std::copy_n(launch_.image, launch_.image_bytes, registers);
    fill_slots(registers, index, (int)k);
    const u32 alive = alive_from_start((int)k);
    warps_[k] = Warp{{Group{0, alive, false}}, alive, 1, 1, false};
  }
  // A program begins with NaN in shared memory; the shadow memory counts it as unwritten.
  std::fill(shared_.begin(), shared_.end(), 0xff);
  now_.program = (u32)index + 1;
  now_.epoch = 1;
  steps_ = 0;
}

// Returns whether the program ended.
bool Machine::run_program(s64 index) {
  start_warps(index);
  std::vector<int> ready;
  for (;;) {
    ready.clear();
    bool running = false;
    for (size_t k = 0; k < warps_.size(); k++) {
      if (warps_[k].groups.empty()) continue;
      running = true;
      if (!warps_[k].at_barrier) ready.push_back((int)k);
    }
    if (!running) return true;
    if (ready.empty()) {
      release_barrier();
      continue;
    }
    const int next = ready[launch_.shuffled ? random() % ready.size() : 0];
    const s64 left = launch_.steps - steps_;
    s64 budget = launch_.slice > 0 ? 1 + (s64)(random() % (u64)launch_.slice) : left;
    run_warp(next, std::min(budget, left));
    if (steps_ >= launch_.steps) {
      report(ENDLESS, 0, 0);
      return false;
    }
  }
}

// Handles the case in which all warps that have not exited wait.
void Machine::release_barrier() {
  s32 first = -1;
  bool exited = false;
  for (size_t k = 0; k < warps_.size(); k++) {
    Warp& warp = warps_[k];
    exited |= warp.groups.empty();
    warp_ = &warp;
    now_.warp = (s32)k;
    std::map<s32, u32> together;
    for (const Group& group : warp.groups) {
      now_.instruction = group.at - 1;
      if (first < 0) first = group.at;
      if (group.at != first) {
        Finding finding{};
        finding.other_warp = finding.other_lane = -1;
        finding.kind = BARRIERS_DIFFER;
        finding.instruction = now_.instruction;
        finding.other = first - 1;
        finding.warp = (s32)k;
        finding.lane = __builtin_ctz(group.lanes);
        finding.program = (s64)now_.program - 1;
        findings_.add(finding);
      }
      together[group.at] |= group.lanes;
    }
    warp.groups.clear();
    for (const auto& [at, lanes] : together) warp.groups.push_back({at, lanes, false});
    warp.at_barrier = false;
    warp.phase++;
    warp.meeting++;
  }
  if (exited) {
    now_.instruction = first - 1;
    report(BARRIER_EXITED, 0, 0);
  }
  now_.epoch++;
  barriers_++;
}

void Machine::report(int kind, int lane, u64 address, int other_lane) {
  Finding finding{};
  finding.kind = kind;
  finding.instruction = now_.instruction;
  finding.other = -1;
  finding.warp = now_.warp;
  finding.lane = lane;
  finding.other_warp = other_lane < 0 ? -1 : now_.warp;
  finding.other_lane = other_lane;
  finding.program = (s64)now_.program - 1;
  finding.address = address;
  findings_.add(finding);
}
