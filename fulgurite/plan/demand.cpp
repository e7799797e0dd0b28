#include "fulgurite/plan/demand.h"

#include <fmt/ranges.h>

#include <algorithm>

#include "fulgurite/core/error.h"
#include "fulgurite/plan/catalog.h"

namespace fulgurite::plan {
namespace {

template <class Implementation>
OperationNames names_of(const std::string& operation, std::initializer_list<const char*> parts,
                        Rows<Implementation> rows) {
  OperationNames names{operation, {}, {}};
  for (const char* const part : parts)  // "": the operation's own name
    names.lines.push_back(*part == '\0' ? operation : operation + " " + part);
  if (names.lines.empty()) names.lines.push_back(operation);
  for (const Implementation* const row : rows) names.implementations.emplace_back(row->name);
  return names;
}

const OperationNames* find(const std::vector<OperationNames>& all, const std::string& operation) {
  for (const OperationNames& names : all)
    if (names.operation == operation || std::ranges::find(names.lines, operation) != names.lines.end())
      return &names;
  return nullptr;
}

[[noreturn]] void refuse_operation(const std::vector<OperationNames>& all, const std::string& operation) {
  std::vector<std::string> known;
  for (const OperationNames& names : all) {
    known.push_back(names.operation);
    if (names.lines.size() == 1 && names.lines.front() == names.operation) continue;
    known.insert(known.end(), names.lines.begin(), names.lines.end());
  }
  fail(ErrorKind::kRequest, "no operation \"{}\"; there are {}", printable(operation, 80),
       fmt::join(known, ", "));
}

}  // namespace

bool concerns(const Demand& demand, std::string_view operation) {
  return operation == demand.operation || operation.substr(0, operation.find(' ')) == demand.operation;
}

std::string describe(const Demand& demand) {
  return fmt::format("{} {}:{}", demand.kind == DemandKind::kRequire ? "require" : "forbid", demand.operation,
                     demand.implementation);
}

std::vector<OperationNames> operation_names() {
  const Catalog& c = catalog();
  return {
      names_of("embedding", {}, c.embedding),
      names_of("norm", {"attention", "q_a", "feed_forward", "final"}, c.norm),
      names_of("linear", {"q_a", "q_b", "kv_a", "kv", "qkv_a", "index_q", "index_gate", "o", "o_b", "head"},
               c.linear),
      names_of("rotary", {"q"}, c.rotary),
      names_of("latent_prepare", {}, c.latent_prepare),
      names_of("indexer_projection", {}, c.indexer_projection),
      names_of("indexer_prepare", {}, c.indexer_prepare),
      names_of("index_select", {}, c.index_select),
      names_of("head_projection", {"query", "value", "o_a"}, c.head_projection),
      names_of("sparse_attention", {}, c.sparse_attention),
      names_of("expanded_attention", {}, c.expanded_attention),
      names_of("router", {}, c.router),
      names_of("experts", {}, c.experts),
      names_of("hyper_connection", {"attention", "feed_forward", "final"}, c.hyper_connection),
      names_of("query_prepare", {}, c.query_prepare),
      names_of("kv_prepare", {}, c.kv_prepare),
      names_of("compressor", {"", "index"}, c.compressor),
      names_of("compressed_attention", {}, c.compressed_attention),
      names_of("largest_logits", {}, c.largest_logits)};
}

Demand parse_demand(DemandKind kind, std::string_view text) {
  const size_t colon = text.find(':');
  if (colon == std::string_view::npos)
    fail(ErrorKind::kRequest, "expected OP:IMPL, found \"{}\"", printable(text, 80));
  const Demand demand{kind, std::string(text.substr(0, colon)), std::string(text.substr(colon + 1))};
  const std::vector<OperationNames> all = operation_names();
  const OperationNames* const names = find(all, demand.operation);
  if (names == nullptr) refuse_operation(all, demand.operation);
  if (std::ranges::find(names->implementations, demand.implementation) == names->implementations.end())
    fail(ErrorKind::kRequest, "{} has no implementation \"{}\"; there are {}", names->operation,
         printable(demand.implementation, 80), fmt::join(names->implementations, ", "));
  return demand;
}

}  // namespace fulgurite::plan
