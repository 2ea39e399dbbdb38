// Loads and stores, and moves that split a register or join registers.
#include <cstring>

#include "machine.h"
#include "traffic.h"

namespace {

// The bytes of each lane's access, in the order of memory.
struct Bytes {
  alignas(32) u8 of[32][32];
};

template <int Width>
void gather_piece(const u8* from, Bytes& bytes, int offset) {
  for (int lane = 0; lane < 32; lane++)
    std::memcpy(bytes.of[lane] + offset, from + lane * Width, Width);
}

void gather(const Instruction& in, const u8* registers, Bytes& bytes) {
  for (int k = 0; k < in.pieces; k++) {
    const u8* from = registers + in.sources[k];
    const int offset = k * in.width;
    if (in.register_bytes != in.width) {  // the low part of a wider register
      for (int lane = 0; lane < 32; lane++)
        std::memcpy(bytes.of[lane] + offset, from + lane * in.register_bytes, in.width);
      continue;
    }
    if (in.width == 4) gather_piece<4>(from, bytes, offset);
    else if (in.width == 8) gather_piece<8>(from, bytes, offset);
    else if (in.width == 2) gather_piece<2>(from, bytes, offset);
    else gather_piece<1>(from, bytes, offset);
  }
}

template <int Width>
void scatter_piece(const Bytes& bytes, int offset, u8* to, u32 lanes) {
  for (int lane = 0; lane < 32; lane++)
    if (lanes >> lane & 1) std::memcpy(to + lane * Width, bytes.of[lane] + offset, Width);
}

// Extends a number that is narrower than its register.
void scatter_narrow(const Instruction& in, const Bytes& bytes, int offset, u8* to, u32 lanes) {
  for (int lane = 0; lane < 32; lane++) {
    if (!(lanes >> lane & 1)) continue;
    const u8* value = bytes.of[lane] + offset;
    const bool ones = in.is_signed && (value[in.width - 1] & 0x80);
    std::memset(to + lane * in.register_bytes, ones ? 0xff : 0, in.register_bytes);
    std::memcpy(to + lane * in.register_bytes, value, in.width);
  }
}

void scatter(const Instruction& in, const Bytes& bytes, u8* registers, u32 lanes) {
  for (int k = 0; k < in.pieces; k++) {
    if (in.results[k] < 0) continue;  // "_"
    u8* to = registers + in.results[k];
    const int offset = k * in.width;
    if (in.register_bytes != in.width) scatter_narrow(in, bytes, offset, to, lanes);
    else if (in.width == 4) scatter_piece<4>(bytes, offset, to, lanes);
    else if (in.width == 8) scatter_piece<8>(bytes, offset, to, lanes);
    else scatter_piece<2>(bytes, offset, to, lanes);
  }
}

// Copies with sizes that the compiler knows, because these are fast.
void copy(void* to, const void* from, int size) {
  if (size == 4) std::memcpy(to, from, 4);
  else if (size == 8) std::memcpy(to, from, 8);
  else if (size == 16) std::memcpy(to, from, 16);
  else std::memcpy(to, from, (size_t)size);
}

}  // namespace

void Machine::global_access(const Instruction& in, u32 lanes) {
  const bool store = in.opcode == ST_GLOBAL;
  const int size = in.width * in.pieces;
  const u64* bases = at<u64>(in.address);
  u64 addresses[32];
  for (int lane = 0; lane < 32; lane++) addresses[lane] = bases[lane] + (u64)in.offset;
  count_global(launch_, now_.instruction, addresses, lanes, size);
  now_.step++;
  Bytes bytes;
  if (store) gather(in, registers_, bytes);
  for (int lane = 0; lane < 32; lane++) {
    if (!(lanes >> lane & 1)) continue;
    u8* data = bytes.of[lane];
    u8* memory = reinterpret_cast<u8*>(addresses[lane]);
    const bool allowed = global_allowed(lane, addresses[lane], size, store ? data : nullptr);
    if (store && allowed) copy(memory, data, size);
    else if (allowed) copy(data, memory, size);
    else if (!store) std::memset(data, 0xff, (size_t)size);
  }
  if (!store) scatter(in, bytes, registers_, lanes);
}

void Machine::shared_access(const Instruction& in, u32 lanes) {
  const bool store = in.opcode == ST_SHARED;
  const int size = in.width * in.pieces;
  const u32* bases = at<u32>(in.address);
  u64 addresses[32];
  for (int lane = 0; lane < 32; lane++) addresses[lane] = bases[lane] + (u32)in.offset;
  count_shared(launch_, now_.instruction, addresses, lanes, size);
  now_.step++;
  Bytes bytes;
  if (store) gather(in, registers_, bytes);
  for (int lane = 0; lane < 32; lane++) {
    if (!(lanes >> lane & 1)) continue;
    const u64 address = addresses[lane];
    u8* data = bytes.of[lane];
    if (address % (u64)size) report(MISALIGNED, lane, address);
    const bool allowed = shared_allowed(lane, address, size, store ? data : nullptr);
    if (store && allowed) copy(shared_.data() + address, data, size);
    else if (allowed) copy(data, shared_.data() + address, size);
    else if (!store) std::memset(data, 0xff, (size_t)size);
  }
  if (!store) scatter(in, bytes, registers_, lanes);
}

// Checks an access; `data` is the data of a store, or null for a load.
bool Machine::shared_allowed(int lane, u64 address, int size, const u8* data) {
  if (address + (u64)size > shared_.size()) {
    report(SHARED_OUTSIDE, lane, address);
    return false;
  }
  if (!launch_.checked) return true;
  now_.phase = warp_->phase;
  now_.meeting = warp_->meeting;
  Shadow& shadow = shared_shadow_.front();
  if (data) shadow.write(now_, lane, address, size, shared_.data() + address, data);
  else shadow.read(now_, lane, address, size);
  return true;
}

// Returns the region that holds the whole access, or -1.
s64 Machine::region_of(u64 address, int size) {
  auto holds = [&](s64 k) {
    const Region& region = launch_.regions[k];
    const u64 from = address - region.address;
    return address >= region.address && from < region.size && (u64)size <= region.size - from;
  };
  if (last_region_ < launch_.region_count && holds(last_region_)) return last_region_;
  for (s64 k = 0; k < launch_.region_count; k++)
    if (holds(k)) return last_region_ = k;
  return -1;
}

bool Machine::global_allowed(int lane, u64 address, int size, const u8* data) {
  if (address % (u64)size) report(MISALIGNED, lane, address);
  const s64 index = region_of(address, size);
  if (index < 0) {
    report(GLOBAL_OUTSIDE, lane, address);
    return false;
  }
  const Region& region = launch_.regions[index];
  if (region.unwritten) {
    u8* unwritten = region.unwritten + (address - region.address);
    if (data) std::memset(unwritten, 0, (size_t)size);
    else if (std::memchr(unwritten, 1, (size_t)size)) report(GLOBAL_UNWRITTEN, lane, address);
  }
  if (!launch_.checked) return true;
  now_.phase = warp_->phase;
  now_.meeting = warp_->meeting;
  Shadow& shadow = global_shadow_[(size_t)index];
  if (data) shadow.write(now_, lane, address, size, reinterpret_cast<u8*>(address), data);
  else shadow.read(now_, lane, address, size);
  return true;
}

// mov.b64 d, {a, b}
void Machine::pack(const Instruction& in, u32 lanes) {
  Bytes bytes;
  gather(in, registers_, bytes);
  const int size = in.width * in.pieces;
  u8* to = registers_ + in.results[0];
  for (int lane = 0; lane < 32; lane++)
    if (lanes >> lane & 1) copy(to + lane * size, bytes.of[lane], size);
}

// mov.b64 {a, b}, d
void Machine::unpack(const Instruction& in, u32 lanes) {
  Bytes bytes;
  const int size = in.width * in.pieces;
  const u8* from = registers_ + in.sources[0];
  for (int lane = 0; lane < 32; lane++) copy(bytes.of[lane], from + lane * size, size);
  scatter(in, bytes, registers_, lanes);
}
