// The functions that Python calls.
#include <algorithm>
#include <cstddef>
#include <string>

#include "machine.h"

// Returns the offset of each field and the size of each structure, for Python to compare.
static std::string described() {
  std::string text;
#define STRUCTURE(type) text += #type " " + std::to_string(sizeof(type)) + ":"
#define FIELD(type, field) text += " " #field " " + std::to_string(offsetof(type, field))
#define END text += "\n"
#include "fields.inc"
  return text;
}

extern "C" {

const char* simulator_layout() {
  static const std::string text = described();
  return text.c_str();
}

// Runs a launch. Returns it with its findings, for `simulator_free` to release; null if memory
// does not suffice.
void* simulator_run(const Launch* launch) {
  try {
    auto* machine = new Machine(*launch);
    machine->run();
    return machine;
  } catch (const std::bad_alloc&) {
    return nullptr;
  }
}

u64 simulator_barriers(void* machine) { return static_cast<Machine*>(machine)->barriers(); }

u64 simulator_count(void* machine) { return static_cast<Machine*>(machine)->findings().size(); }

void simulator_findings(void* machine, Finding* to) {
  const auto& findings = static_cast<Machine*>(machine)->findings();
  std::copy(findings.begin(), findings.end(), to);
}

void simulator_free(void* machine) { delete static_cast<Machine*>(machine); }
}
