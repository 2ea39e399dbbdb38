// Shared memory has 32 banks of 4 bytes. Lanes that access the same word share it; different words
// of a bank take turns. Half a warp at a time makes an access of 8 bytes, a quarter one of 16
// bytes. Global memory moves in sectors of 32 bytes, and lines have four of them.
#include "traffic.h"

#include <algorithm>

int bank_conflicts(const u64* addresses, u32 lanes, int from, int to, int size) {
  u64 words[32][33];
  int counts[32] = {0}, most = 0;
  for (int lane = from; lane < to; lane++) {
    if (!(lanes >> lane & 1)) continue;
    for (u64 word = addresses[lane] / 4; word <= (addresses[lane] + size - 1) / 4; word++) {
      const int bank = (int)(word & 31);
      const u64* end = words[bank] + counts[bank];
      if (std::find((const u64*)words[bank], end, word) != end) continue;
      words[bank][counts[bank]++] = word;
      most = std::max(most, counts[bank]);
    }
  }
  return most;
}

void count_shared(const Launch& launch, s32 at, const u64* addresses, u32 lanes, int size) {
  const int phases = size <= 4 ? 1 : size / 4, step = 32 / phases;
  for (int phase = 0; phase < phases; phase++) {
    const int most = bank_conflicts(addresses, lanes, phase * step, (phase + 1) * step, size);
    launch.wavefronts[at] += (u64)most;
    launch.conflict_free[at] += most > 0;
  }
  launch.moved[at] += (u64)__builtin_popcount(lanes) * (u64)size;
}

// Counts different numbers; fast if they are in order, as mostly.
static u64 different(u64* numbers, int count) {
  if (!std::is_sorted(numbers, numbers + count)) std::sort(numbers, numbers + count);
  return (u64)(std::unique(numbers, numbers + count) - numbers);
}

void count_global(const Launch& launch, s32 at, const u64* addresses, u32 lanes, int size) {
  u64 sectors[96], lines[64];
  int sector_count = 0, line_count = 0;
  for (int lane = 0; lane < 32; lane++) {
    if (!(lanes >> lane & 1)) continue;
    const u64 first = addresses[lane], last = first + (u64)size - 1;
    for (u64 k = first / 32; k <= last / 32; k++) sectors[sector_count++] = k;
    for (u64 k = first / 128; k <= last / 128; k++) lines[line_count++] = k;
  }
  launch.sectors[at] += different(sectors, sector_count);
  launch.lines[at] += different(lines, line_count);
  launch.moved[at] += (u64)__builtin_popcount(lanes) * (u64)size;
}
