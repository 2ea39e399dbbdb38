// Compiled once for each PART: cases_PART.inc is generated from the tables of instructions.
// Expressions are computed for all lanes, even those that do not take part: this is faster, and
// an expression has no effect except its result.
#include "arithmetic.h"

#include <cstdio>
#include <cstdlib>

#include "approximate.h"

#define JOINED_(a, b) a##b
#define JOINED(a, b) JOINED_(a, b)
#define TEXT_(a) #a
#define TEXT(a) TEXT_(a)

template <class T>
static inline const T* source(const Instruction& in, const u8* registers, int number) {
  return reinterpret_cast<const T*>(registers + in.sources[number]);
}

// Two registers are the same or do not overlap, so that no iteration depends on another.
#define EACH(TYPE, LANES, LOADS, ...)     \
  TYPE* out = reinterpret_cast<TYPE*>(to); \
  _Pragma("GCC ivdep") for (int i = 0; i < LANES; i++) { \
    LOADS out[i] = (TYPE)(__VA_ARGS__);                  \
  }

int JOINED(arithmetic_, PART)(const Instruction& in, const u8* registers, u8* to, f64 ulp) {
  (void)ulp;
  switch (in.opcode) {
#include TEXT(JOINED(cases_, PART).inc)
  }
  std::fprintf(stderr, "simulator: there is no instruction %d\n", in.opcode);
  std::abort();
}
