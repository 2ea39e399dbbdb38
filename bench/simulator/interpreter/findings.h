// The findings: each kind once for each pair of instructions, with a count.
#pragma once
#include <unordered_map>
#include <vector>

#include "generated.h"
#include "layout.h"

class Findings {
 public:
  // Counts a finding; stores it if it is the first of its kind for these instructions.
  void add(const Finding& finding) {
    const u64 key = ((u64)(u32)finding.instruction << 38) ^ ((u64)(u32)(finding.other + 1) << 8) ^
                    (u64)finding.kind;
    auto [place, is_new] = places_.try_emplace(key, all_.size());
    if (is_new) all_.push_back(finding);
    all_[place->second].count++;
  }

  const std::vector<Finding>& all() const { return all_; }

 private:
  std::vector<Finding> all_;
  std::unordered_map<u64, size_t> places_;
};
