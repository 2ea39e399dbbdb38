#include "shadow.h"

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
  for (u64 k = address / cell_; k <= (address + size - 1) / cell_; k++) {
    Cell& cell = cells_[k - first_];
    if (shared_ ? cell.writer.program != now.program || cell.writer.epoch == now.epoch
                : cell.writer.program != 0)
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

void Shadow::write(const Moment& now, int lane, u64 address, int size, const u8* before,
                   const u8* data) {
  const u64 end = address + size;
  for (u64 k = address / cell_; k <= (end - 1) / cell_; k++) {
    Cell& cell = cells_[k - first_];
    const u64 from = k * cell_ > address ? k * cell_ : address;
    const u64 to = (k + 1) * cell_ < end ? (k + 1) * cell_ : end;
    const int bytes = (int)(to - from < 8 ? to - from : 8);
    Finding finding = finding_at(now, lane, from);
    finding.bytes = bytes;
    std::memcpy(&finding.found, before + (from - address), bytes);
    std::memcpy(&finding.written, data + (from - address), bytes);
    check_write(cell, now, lane, finding, finding.found == finding.written);
    check_readers(cell, now, lane, finding);
    cell.writer = {now.program, now.epoch,       now.step,      now.phase,
                   now.meeting, now.instruction, (u16)now.warp, (u16)lane};
    // What was read is overwritten: later reads start anew.
    if (cell.reader.program == now.program) cell.reader.epoch = 0;
  }
}
