// Tensors that Python hands over, as memory. They are read through the exchange API of DLPack, a
// table of C functions which the tensors' type offers (dlpack.h of version 1.3): a look at one takes
// tens of nanoseconds, Python's look at each of its properties as many, and nothing of torch is
// compiled in.
#pragma once

#include <nanobind/nanobind.h>

#include <cstdint>

#include "drift_job.h"

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
  // `exchange` is the type's capsule `__dlpack_c_exchange_api__`; `types` are those that it is for.
  TensorReader(nanobind::handle exchange, nanobind::tuple types);
  // False for what is no contiguous tensor of a `Number` in CPU memory, or of another type.
  bool read(nanobind::handle object, Numbers& out) const;

 private:
  using Fill = int (*)(void* object, void* tensor);
  Fill fill_;
  nanobind::tuple types_;
};

}  // namespace gaussreg
