// Working memory of a call.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <new>
#include <utility>

namespace gaussreg {

// Working memory, aligned to cache lines. Each thread keeps its last piece unless it is too large,
// because new pages would cost as much as the kernels.
class Memory {
 public:
  explicit Memory(std::int64_t bytes) {
    const std::size_t rounded = (static_cast<std::size_t>(bytes) + kLine - 1) / kLine * kLine;
    Piece& kept = last();
    if (kept.bytes >= rounded) {
      piece_ = std::exchange(kept, Piece{});
      return;
    }
    piece_ = {static_cast<char*>(std::aligned_alloc(kLine, rounded)), rounded};
    if (!piece_.base) throw std::bad_alloc();
  }
  ~Memory() {
    Piece& kept = last();
    if (piece_.bytes <= kKept && piece_.bytes > kept.bytes) std::swap(kept, piece_);
    std::free(piece_.base);
  }
  Memory(const Memory&) = delete;
  Memory& operator=(const Memory&) = delete;
  char* get() const { return piece_.base; }

 private:
#ifdef GAUSSREG_ASAN  // new memory for each call, so that no old number or poisoning is left in it
  static constexpr std::size_t kLine = 64, kKept = 0;
#else
  static constexpr std::size_t kLine = 64, kKept = std::size_t{32} << 20;
#endif
  struct Piece {
    char* base = nullptr;
    std::size_t bytes = 0;
  };
  struct Last : Piece {
    ~Last() { std::free(base); }
  };
  static Piece& last() {
    static thread_local Last piece;
    return piece;
  }

  Piece piece_;
};

}  // namespace gaussreg
