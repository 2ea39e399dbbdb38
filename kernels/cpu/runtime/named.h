// Names that Python gives to the values of an enumeration.
#pragma once

#include <cstddef>
#include <stdexcept>
#include <string>
#include <utility>

namespace gaussreg {

// Returns the value of a name; if there is none, throws an exception that calls the `what` unknown.
template <class T, std::size_t N>
T named(const std::pair<const char*, T> (&values)[N], const char* what, const std::string& name) {
  for (const auto& [known, value] : values)
    if (name == known) return value;
  throw std::invalid_argument(std::string("unknown ") + what + " " + name);
}

}  // namespace gaussreg
