// Which cases there are, and which of them are asked for.

#include <fmt/ranges.h>

#include <algorithm>

#include "bench/case.h"
#include "fulgurite/core/error.h"

namespace fulgurite::bench {
namespace {

struct Operation {
  std::string name;
  std::vector<std::string> implementations;
};

template <class Row>
Operation operation(const char* name, plan::Rows<Row> rows) {
  Operation operation{name, {}};
  for (const Row* const row : rows) operation.implementations.push_back(row->name);
  return operation;
}

std::vector<Operation> operations_of(const plan::Catalog& c) {
  return {operation("linear", c.linear),
          operation("head_projection", c.head_projection),
          operation("indexer_projection", c.indexer_projection),
          operation("indexer_prepare", c.indexer_prepare),
          operation("index_select", c.index_select),
          operation("compressor", c.compressor),
          operation("latent_prepare", c.latent_prepare),
          operation("sparse_attention", c.sparse_attention),
          operation("expanded_attention", c.expanded_attention),
          operation("compressed_attention", c.compressed_attention),
          operation("router", c.router),
          operation("experts", c.experts),
          operation("embedding", c.embedding),
          operation("norm", c.norm),
          operation("rotary", c.rotary),
          operation("hyper_connection", c.hyper_connection),
          operation("query_prepare", c.query_prepare),
          operation("kv_prepare", c.kv_prepare)};
}

std::vector<Case> all_cases(const Request& request) {
  std::vector<Case> all;
  const bool latent = request.shape.kv == 0;
  add_linears(request, all);
  add_indexer(request, all);
  add_compressor(request, all);
  if (latent) add_attention(request, all);
  add_feed_forward(request, all);
  if (!latent) add_compressed_attention(request, all);
  if (!latent) add_streams(request, all);
  add_small_steps(request, all);
  return all;
}

bool names(const std::string& asked, const Case& c) { return c.operation == asked || c.title() == asked; }

bool has(const Request& request, const std::string& asked) {
  return std::ranges::any_of(all_cases(request), [&](const Case& c) { return names(asked, c); });
}

// The titles of an operation's cases in this shape, whatever the numerics.
std::vector<std::string> titles_of(Request request, const std::string& operation) {
  request.tokens.clear();
  std::vector<std::string> titles;
  for (const Mla mla : {Mla::kAbsorbed, Mla::kExpanded}) {
    request.setting.numerics.mla = mla;
    for (const Case& c : all_cases(request))
      if (c.operation == operation && std::ranges::find(titles, c.title()) == titles.end())
        titles.push_back(c.title());
  }
  return titles;
}

// `asked` names no case of the request: is there one elsewhere?
[[noreturn]] void refuse(const Request& request, const std::string& asked) {
  const std::string shown = printable(asked, 80);
  Request other = request;
  other.tokens.clear();
  if (has(other, asked))
    fail(ErrorKind::kRequest, "{}: no case of {} tokens, which is more than its context in shape {}", shown,
         fmt::join(request.tokens, " or "), request.shape.name);
  Mla& mla = other.setting.numerics.mla;
  mla = mla == Mla::kAbsorbed ? Mla::kExpanded : Mla::kAbsorbed;
  if (has(other, asked))
    fail(ErrorKind::kRequest, "{}: a plan has it where mla={}, here mla={}", shown, value_name(mla),
         value_name(request.setting.numerics.mla));
  std::vector<std::string> known;
  for (const Operation& operation : operations_of(*request.catalog)) {
    if (asked == operation.name)
      fail(ErrorKind::kRequest, "{}: shape {} has no such operation", shown, request.shape.name);
    if (asked.starts_with(operation.name + "."))
      fail(ErrorKind::kRequest, "{}: no such case in shape {}; there are {}", shown, request.shape.name,
           fmt::join(titles_of(request, operation.name), ", "));
    known.push_back(operation.name);
  }
  fail(ErrorKind::kRequest, "{}: no such operation; there are {}", shown, fmt::join(known, ", "));
}

void require_implementation(const Request& request, const std::vector<Case>& cases) {
  if (request.implementation.empty()) return;
  for (const Operation& operation : operations_of(*request.catalog)) {
    const bool asked =
        std::ranges::any_of(cases, [&](const Case& c) { return c.operation == operation.name; });
    const bool known = std::ranges::find(operation.implementations, request.implementation) !=
                       operation.implementations.end();
    if (asked && !known)
      fail(ErrorKind::kRequest, "{} has no implementation \"{}\"; it has {}", operation.name,
           printable(request.implementation, 80), fmt::join(operation.implementations, ", "));
  }
}

}  // namespace

Arithmetic arithmetic_of(std::string_view implementation) {
  return implementation.starts_with("cpu_") ? Arithmetic::kPairs : Arithmetic::kFp32;
}

std::vector<Case> cases_of(const Request& request, const std::vector<std::string>& operations) {
  std::vector<Case> cases = all_cases(request);
  if (!operations.empty())
    std::erase_if(cases, [&](const Case& c) {
      return std::ranges::none_of(operations, [&](const std::string& asked) { return names(asked, c); });
    });
  for (const std::string& asked : operations)
    if (std::ranges::none_of(cases, [&](const Case& c) { return names(asked, c); })) refuse(request, asked);
  require_implementation(request, cases);
  return cases;
}

}  // namespace fulgurite::bench
