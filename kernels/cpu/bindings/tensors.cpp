#include "tensors.h"

namespace nb = nanobind;

namespace gaussreg {
namespace {

// The parts of dlpack.h that this file reads.
struct Version {
  std::uint32_t major, minor;
};
struct Exchange {
  Version version;
  const void* previous;
  void (*allocate)();
  void (*from_object)();
  void (*to_object)();
  int (*view_of_object)(void* object, void* tensor);
  void (*stream)();
};
struct View {
  void* data;
  std::int32_t device_type, device_id, dims;
  std::uint8_t code, bits;
  std::uint16_t lanes;
  std::int64_t* shape;
  std::int64_t* strides;  // in numbers; null for contiguous ones
  std::uint64_t byte_offset;
};
constexpr std::int32_t kCpu = 1;
constexpr std::uint8_t kFloatCode = 2, kBfloatCode = 4;

Number number_of(const View& v) {
  if (v.lanes != 1) return Number::kNone;
  if (v.code == kBfloatCode && v.bits == 16) return Number::kBfloat16;
  if (v.code != kFloatCode) return Number::kNone;
  return v.bits == 32 ? Number::kFloat : v.bits == 16 ? Number::kHalf : Number::kNone;
}

bool is_contiguous(const View& v) {
  std::int64_t expected = 1;
  for (std::int32_t i = v.dims - 1; v.strides && i >= 0; --i) {
    if (v.shape[i] != 1 && v.strides[i] != expected) return false;
    expected *= v.shape[i];
  }
  return true;
}

}  // namespace

int bytes_of(Number type) { return type == Number::kNone ? 0 : type == Number::kFloat ? 4 : 2; }

bool Numbers::same_shape(const Numbers& other) const {
  if (dims != other.dims) return false;
  for (std::int32_t i = 0; i < dims; ++i)
    if (shape[i] != other.shape[i]) return false;
  return true;
}

TensorReader::TensorReader(nb::handle exchange, nb::tuple types) : types_(types) {
  const void* found = PyCapsule_GetPointer(exchange.ptr(), "dlpack_exchange_api");
  if (!found) throw nb::python_error();
  const auto* api = static_cast<const Exchange*>(found);
  fill_ = api->version.major == 1 ? api->view_of_object : nullptr;  // null: read() refuses all
}

bool TensorReader::view(nb::handle object, void* view) const {
  bool known = false;
  for (nb::handle type : types_) known |= object.type().is(type);
  if (!known || !fill_) return false;
  if (fill_(object.ptr(), view)) {  // it fails for a sparse tensor, for example
    PyErr_Clear();
    return false;
  }
  return true;
}

void* TensorReader::address(nb::handle object) const {
  View v{};
  return view(object, &v) ? static_cast<char*>(v.data) + v.byte_offset : nullptr;
}

bool TensorReader::read(nb::handle object, Numbers& out) const {
  View v{};
  if (!view(object, &v)) return false;
  std::int64_t size = 1;
  for (std::int32_t i = 0; i < v.dims; ++i) size *= v.shape[i];
  out = {static_cast<char*>(v.data) + v.byte_offset, size, number_of(v), v.dims, v.shape};
  return v.device_type == kCpu && out.type != Number::kNone && (!size || is_contiguous(v));
}

}  // namespace gaussreg
