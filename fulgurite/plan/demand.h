#pragma once
// What a plan has to choose, or must not: OP:IMPL.

#include <string>
#include <string_view>
#include <vector>

namespace fulgurite::plan {

enum class DemandKind { kRequire, kForbid };

struct Demand {
  DemandKind kind = DemandKind::kRequire;
  std::string operation;       // of the catalog, "linear", or one of its lines in a plan, "linear q_a"
  std::string implementation;  // "cpu_fp8"
};

// Does it speak of this line of a plan?
bool concerns(const Demand& demand, std::string_view operation);
std::string describe(const Demand& demand);  // "require linear q_a:cpu_fp8"

// "linear:cpu", "linear q_a:cpu_fp8". Throws Error{kRequest} naming what is unknown and what there is.
Demand parse_demand(DemandKind kind, std::string_view text);

// The operations of the catalog, the lines that each has in a plan, and who implements them.
struct OperationNames {
  std::string operation;
  std::vector<std::string> lines;  // "linear q_a"; where there is one line alone, the operation's name
  std::vector<std::string> implementations;
};
std::vector<OperationNames> operation_names();

}  // namespace fulgurite::plan
