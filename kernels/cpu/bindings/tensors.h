// Reads tensors from Python as memory, through DLPack's exchange API: a table of C functions that
// the tensors' type offers (dlpack.h, version 1.3). A call for a tensor takes tens of nanoseconds,
// as long as Python takes for each of its properties, and nothing of torch is compiled in.
#pragma once

#include <nanobind/nanobind.h>

#include <cstdint>

#include "number.h"

namespace gaussreg {

struct Numbers {
  void* data;
  std::int64_t size;
  Number type;
  std::int32_t dims;
  const std::int64_t* shape;  // the tensor's own

  bool same_shape(const Numbers& other) const;
};

int bytes_of(Number type);

class TensorReader {
 public:
  // `exchange` is the capsule `__dlpack_c_exchange_api__` of the types `types`.
  TensorReader(nanobind::handle exchange, nanobind::tuple types);
  // Returns false unless the object is of one of the types, and a contiguous tensor in CPU memory
  // with numbers of a type in `Number`.
  bool read(nanobind::handle object, Numbers& out) const;
  // Returns the address of a tensor of one of the types, whatever its numbers; null if it has none.
  void* address(nanobind::handle object) const;

 private:
  // Fills a DLPack view; false if the object is of another type or has no numbers in memory.
  bool view(nanobind::handle object, void* view) const;

  using Fill = int (*)(void* object, void* tensor);
  Fill fill_;
  nanobind::tuple types_;
};

}  // namespace gaussreg
