#pragma once
// --verify-plan: after a run, how often each row of the plan ran against how often it must have.

#include <nlohmann/json.hpp>
#include <span>
#include <string>

#include "fulgurite/plan/counts.h"

namespace fulgurite::tool {

inline constexpr const char* kVerifyPlanHelp =
    "Afterwards compare how often each row of the plan ran with what the plan predicts: a line on stderr, or "
    "the rows that differ and exit code 1";

struct Verification {
  bool agrees = true;
  std::string text;             // a line where all agree, else a table of the rows that do not
  nlohmann::ordered_json json;  // every row
  int exit_code() const { return agrees ? 0 : 1; }
};
Verification verify(const plan::Plan& plan, std::span<const plan::Pass> passes,
                    std::span<const plan::RowCount> counted);

}  // namespace fulgurite::tool
