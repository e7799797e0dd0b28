#pragma once
// What an audit of one operation says: each of its outputs, the planned implementation against the reference
// on the same inputs, within a bound derived from the arithmetic (the operation's X_audit.cpp).

#include <string>
#include <vector>

#include "fulgurite/audit/compare.h"

namespace fulgurite::audit {

struct OutputReport {
  std::string name;  // as in the operation's Args
  Difference difference;
};

struct OpReport {
  std::vector<OutputReport> outputs;

  bool within() const {
    for (const OutputReport& output : outputs)
      if (!output.difference.within()) return false;
    return true;
  }
};

// A line an output.
std::string describe(const OpReport& report);

}  // namespace fulgurite::audit
