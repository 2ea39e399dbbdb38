// Shadow memory: the last write and reads of each cell, and the accesses that conflict with them.
#pragma once
#include <cstdlib>
#include <new>

#include "findings.h"

// The time of an access. The program's barriers separate epochs, the warp's barriers its phases;
// instructions that only synchronise its lanes, such as a shuffle, separate its meetings.
struct Moment {
  u32 program;  // counted from 1: 0 is none
  u32 epoch;
  u32 step;
  s32 instruction;
  s32 warp;
  u32 phase;
  u32 meeting;
};

struct Cell {
  struct Writer {
    u32 program, epoch, step, phase, meeting;
    s32 instruction;
    u16 warp;
    u16 lane;
  } writer;
  struct Reader {
    u32 program, epoch, warps, phase, meeting;
    s32 instruction;
    u16 warp;
    u8 lane;
    bool several_lanes, several_programs;
  } reader;
};

// The cells of one piece of memory, of 1, 2 or 4 bytes each.
class Shadow {
 public:
  Shadow(bool shared, u64 address, u64 bytes, int cell, Findings& findings)
      : shared_(shared), shift_(__builtin_ctz(cell)), first_(address >> shift_),
        findings_(findings) {
    const u64 count = ((address + bytes) >> shift_) - first_ + 1;
    cells_ = (Cell*)std::calloc(count, sizeof(Cell));  // the system provides pages on first use
    if (!cells_) throw std::bad_alloc();
  }
  Shadow(Shadow&& other) noexcept
      : shared_(other.shared_), shift_(other.shift_), first_(other.first_), cells_(other.cells_),
        findings_(other.findings_) {
    other.cells_ = nullptr;
  }
  Shadow(const Shadow&) = delete;
  ~Shadow() { std::free(cells_); }

  void read(const Moment& now, int lane, u64 address, int size);
  // `before` is the memory's content, `data` the data of the write.
  void write(const Moment& now, int lane, u64 address, int size, const u8* before, const u8* data);

 private:
  void check_read(const Cell& cell, const Moment& now, int lane, u64 address);
  void note_read(Cell& cell, const Moment& now, int lane);
  bool concerns(const Cell& cell, const Moment& now) const;
  void check(const Cell& cell, const Moment& now, int lane, u64 address, int bytes,
             const u8* before, const u8* data);
  void check_write(const Cell& cell, const Moment& now, int lane, Finding& finding, bool same);
  void check_readers(const Cell& cell, const Moment& now, int lane, Finding& finding);
  void report(int kind, Finding finding, s32 other, int other_warp, int other_lane);
  // The kinds of global memory have the order of those of shared memory.
  int kind(int of_shared) const {
    return shared_ ? of_shared : of_shared + GLOBAL_UNWRITTEN - SHARED_UNWRITTEN;
  }

  bool shared_;
  int shift_;  // of an address to the number of its cell
  u64 first_;
  Cell* cells_;
  Findings& findings_;
};
