#include "shadow.h"

#include <algorithm>
#include <cstring>

static_assert(GLOBAL_ORDERED_WRITE_AFTER_WRITE - GLOBAL_UNWRITTEN ==
                  SHARED_ORDERED_WRITE_AFTER_WRITE - SHARED_UNWRITTEN,
              "the kinds of global memory are in the order of those of shared memory");

static Finding finding_at(const Moment& now, int lane, u64 address) {
  Finding finding{};
  finding.instruction = now.instruction;
  finding.warp = now.warp;
  finding.lane = lane;
  finding.program = (s64)now.program - 1;
  finding.address = address;
  return finding;
}

void Shadow::report(int kind, Finding finding, s32 other, int other_warp, int other_lane) {
  finding.kind = kind;
  finding.other = other;
  finding.other_warp = other_warp;
  finding.other_lane = other_lane;
  findings_.add(finding);
}

void Shadow::check_read(const Cell& cell, const Moment& now, int lane, u64 address) {
  const Cell::Writer& writer = cell.writer;
  const Finding finding = finding_at(now, lane, address);
  auto found = [&](int kind) {
    report(kind, finding, writer.instruction, writer.warp, writer.lane);
  };
  if (writer.program != now.program) {
    if (shared_) report(SHARED_UNWRITTEN, finding, -1, -1, -1);
    else if (writer.program) found(PROGRAMS_READ_AFTER_WRITE);
    return;
  }
  if (writer.epoch != now.epoch) return;
  if (writer.warp != now.warp) {
    found(kind(SHARED_READ_AFTER_WRITE));
  } else if (writer.lane != lane && writer.phase == now.phase) {
    const bool in_step = writer.meeting == now.meeting;
    found(kind(in_step ? SHARED_STEP_READ_AFTER_WRITE : SHARED_ORDERED_READ_AFTER_WRITE));
  }
}

void Shadow::note_read(Cell& cell, const Moment& now, int lane) {
  Cell::Reader& reader = cell.reader;
  if (reader.program != now.program) {
    reader.several_programs |= reader.program != 0;
    reader.program = now.program;
    reader.epoch = 0;
  }
  if (reader.epoch != now.epoch) {
    reader.epoch = now.epoch;
    reader.warps = 0;
    reader.several_lanes = false;
    reader.lane = (u8)lane;
    reader.warp = (u16)now.warp;
  }
  reader.warps |= 1u << now.warp;
  if (reader.warp != now.warp || reader.phase != now.phase) reader.several_lanes = false;
  else if (reader.lane != lane) reader.several_lanes = true;
  reader.warp = (u16)now.warp;
  reader.lane = (u8)lane;
  reader.phase = now.phase;
  reader.meeting = now.meeting;
  reader.instruction = now.instruction;
}

void Shadow::read(const Moment& now, int lane, u64 address, int size) {
  for (u64 k = address >> shift_; k <= (address + size - 1) >> shift_; k++) {
    Cell& cell = cells_[k - first_];
    const Cell::Writer& writer = cell.writer;
    if (writer.program == now.program ? writer.epoch == now.epoch : shared_ || writer.program)
      check_read(cell, now, lane, address);
    note_read(cell, now, lane);
  }
}

void Shadow::check_write(const Cell& cell, const Moment& now, int lane, Finding& finding,
                         bool same) {
  const Cell::Writer& writer = cell.writer;
  auto found = [&](int kind) {
    report(kind, finding, writer.instruction, writer.warp, writer.lane);
  };
  if (writer.program == 0) return;
  if (writer.program != now.program) {
    if (!shared_) found(same ? PROGRAMS_SAME_VALUE : PROGRAMS_WRITE_AFTER_WRITE);
    return;
  }
  if (writer.epoch != now.epoch) return;
  if (writer.warp != now.warp) {
    found(kind(same ? SHARED_SAME_VALUE : SHARED_WRITE_AFTER_WRITE));
  } else if (writer.lane != lane && writer.phase == now.phase && !same) {
    found(kind(writer.step == now.step         ? SHARED_ONE_STORE
               : writer.meeting == now.meeting ? SHARED_STEP_WRITE_AFTER_WRITE
                                               : SHARED_ORDERED_WRITE_AFTER_WRITE));
  }
}

void Shadow::check_readers(const Cell& cell, const Moment& now, int lane, Finding& finding) {
  const Cell::Reader& reader = cell.reader;
  auto found = [&](int kind) {
    report(kind, finding, reader.instruction, reader.warp, reader.lane);
  };
  if (reader.program == 0) return;
  if (!shared_ && (reader.program != now.program || reader.several_programs))
    found(PROGRAMS_WRITE_AFTER_READ);
  if (reader.program != now.program || reader.epoch != now.epoch) return;
  if (reader.warps & ~(1u << now.warp)) {
    found(kind(SHARED_WRITE_AFTER_READ));
  } else if ((reader.lane != lane || reader.several_lanes) && reader.phase == now.phase) {
    const bool in_step = reader.meeting == now.meeting;
    found(kind(in_step ? SHARED_STEP_WRITE_AFTER_READ : SHARED_ORDERED_WRITE_AFTER_READ));
  }
}

// Returns whether a write may conflict with the noted accesses; mostly it does not.
bool Shadow::concerns(const Cell& cell, const Moment& now) const {
  const Cell::Writer& writer = cell.writer;
  const Cell::Reader& reader = cell.reader;
  if (writer.program == now.program ? writer.epoch == now.epoch : !shared_ && writer.program)
    return true;
  if (reader.program != now.program) return !shared_ && reader.program;
  return reader.epoch == now.epoch || (!shared_ && reader.several_programs);
}

void Shadow::check(const Cell& cell, const Moment& now, int lane, u64 address, int bytes,
                   const u8* before, const u8* data) {
  Finding finding = finding_at(now, lane, address);
  finding.bytes = bytes;
  std::memcpy(&finding.found, before, bytes);
  std::memcpy(&finding.written, data, bytes);
  check_write(cell, now, lane, finding, finding.found == finding.written);
  check_readers(cell, now, lane, finding);
}

void Shadow::write(const Moment& now, int lane, u64 address, int size, const u8* before,
                   const u8* data) {
  const u64 end = address + size;
  const Cell::Writer writer = {now.program, now.epoch,       now.step,      now.phase,
                               now.meeting, now.instruction, (u16)now.warp, (u16)lane};
  for (u64 k = address >> shift_; k <= (end - 1) >> shift_; k++) {
    Cell& cell = cells_[k - first_];
    if (concerns(cell, now)) {
      const u64 from = std::max(k << shift_, address), to = std::min((k + 1) << shift_, end);
      const u64 offset = from - address;
      check(cell, now, lane, from, (int)(to - from), before + offset, data + offset);
    }
    cell.writer = writer;
    // The write replaces what earlier reads saw, so that later reads are noted anew.
    if (cell.reader.program == now.program) cell.reader.epoch = 0;
  }
}
