// ldmatrix and stmatrix: matrices of 8 x 8 numbers of 16 bits. Lane 8 k + j has the address of row
// j of matrix k. Of each matrix, lane i holds columns 2 (i % 4) and 2 (i % 4) + 1 of row i / 4, or
// of the transposed matrix.
#include <cstring>

#include "machine.h"
#include "traffic.h"

void Machine::matrix_access(const Instruction& in, u32 lanes) {
  if (lanes != ~0u) report(APART, __builtin_ctz(lanes), lanes);
  warp_->meeting++;
  now_.step++;
  const u32* bases = at<u32>(in.address);
  for (int matrix = 0; matrix < in.pieces; matrix++) {
    u64 rows[32] = {0};
    for (int row = 0; row < 8; row++) rows[row] = bases[8 * matrix + row] + (u32)in.offset;
    launch_.wavefronts[now_.instruction] += (u64)bank_conflicts(rows, 0xff, 0, 8, 16);
    launch_.conflict_free[now_.instruction]++;
    launch_.moved[now_.instruction] += 128;
    for (int row = 0; row < 8; row++) {
      if (rows[row] % 16) report(MISALIGNED, 8 * matrix + row, rows[row]);
      matrix_row(in, matrix, row, rows[row]);
    }
  }
}

void Machine::matrix_row(const Instruction& in, int matrix, int row, u64 address) {
  const bool store = in.opcode == STMATRIX;
  u8* registers = registers_ + (store ? in.sources[matrix] : in.results[matrix]);
  for (int column = 0; column < 8; column++) {
    const int i = in.variant ? column : row, j = in.variant ? row : column;
    const int lane = 4 * i + j / 2;
    u8* half = registers + 4 * lane + 2 * (j % 2);
    const u64 place = address + 2 * (u64)column;
    const bool allowed = shared_allowed(lane, place, 2, store ? half : nullptr);
    if (store && allowed) std::memcpy(shared_.data() + place, half, 2);
    else if (allowed) std::memcpy(half, shared_.data() + place, 2);
    else if (!store) std::memset(half, 0xff, 2);
  }
}
