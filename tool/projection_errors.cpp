#include "tool/projection_errors.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "bench/gate_error.h"
#include "bench/projection_error.h"
#include "fulgurite/cpu/thread_pool.h"
#include "tool/table.h"

namespace fulgurite::tool {
namespace {

std::string text_of(const bench::ChoiceChange& change) {
  return fmt::format("{} ({:.2f})", change.sets, change.positions);
}

void print_text(const bench::Request& request, const bench::ProjectionErrors& errors) {
  fmt::print("fulgurite " FULGURITE_VERSION " bench indexer_projection --errors, shape {}, {}\n",
             request.shape.name, name(request.setting.target.isa));
  fmt::print(
      "against sums in double over {} tokens; sets: the top {} of {} queries that differ from what exact "
      "sums lead to\n(and the positions of a set that do, on average), by the gate alone and by both; ties: "
      "queries whose last\nchosen and first left out position have equal scores\n\n",
      errors.tokens, errors.topk, errors.queries);
  Table table({{"form"},
               {"numerics"},
               {"runs"},
               {"gate, L2", Align::kRight},
               {"largest", Align::kRight},
               {"k, L2", Align::kRight},
               {"largest", Align::kRight},
               {"sets by gate", Align::kRight},
               {"by both", Align::kRight},
               {"ties", Align::kRight}});
  for (const bench::FormError& form : errors.forms)
    table.add({form.what, form.numerics, form.implementation, fmt::format("{:.2e}", form.gate.relative),
               fmt::format("{:.2e}", form.gate.largest), fmt::format("{:.2e}", form.key.relative),
               fmt::format("{:.2e}", form.key.largest), text_of(form.by_gate), text_of(form.by_both),
               fmt::format("{}", form.by_both.ties)});
  fmt::print("{}", table.text());
}

void print_text(const bench::GateErrors& errors) {
  fmt::print(
      "\nthe head gate alone, beside gate, weights and scores in double: the top {} of {} candidates, {} "
      "queries;\ntied: candidates of a query whose score another has too, on average; decided: queries whose "
      "cut "
      "is a tie\n\n",
      errors.topk, errors.candidates, errors.queries);
  using enum Align;
  Table table({{"inputs"},
               {"gate"},
               {"runs"},
               {"gate, L2", kRight},
               {"largest", kRight},
               {"other sets", kRight},
               {"tied", kRight},
               {"decided", kRight}});
  for (const bench::GateInput& input : errors.inputs)
    for (const bench::GateForm& form : input.forms)
      table.add({input.what, form.what, form.implementation, fmt::format("{:.2e}", form.gate.relative),
                 fmt::format("{:.2e}", form.gate.largest),
                 fmt::format("{} ({:.2f})", form.sets, form.positions), fmt::format("{:.1f}", form.tied),
                 fmt::format("{}", form.decided_by_tie)});
  fmt::print("{}", table.text());
}

nlohmann::ordered_json json_of(const bench::Deviation& deviation) {
  return {{"relative_l2", deviation.relative}, {"largest_over_rms", deviation.largest}};
}
nlohmann::ordered_json json_of(const bench::ChoiceChange& change) {
  return {{"sets", change.sets}, {"positions_of_a_set", change.positions}, {"ties", change.ties}};
}

nlohmann::ordered_json json_of(const bench::GateErrors& errors) {
  nlohmann::ordered_json json{
      {"queries", errors.queries}, {"candidates", errors.candidates}, {"topk", errors.topk}};
  for (const bench::GateInput& input : errors.inputs)
    for (const bench::GateForm& form : input.forms)
      json["forms"].push_back(nlohmann::ordered_json{{"inputs", input.what},
                                                     {"form", form.what},
                                                     {"implementation", form.implementation},
                                                     {"gate", json_of(form.gate)},
                                                     {"sets", form.sets},
                                                     {"positions_of_a_set", form.positions},
                                                     {"tied_candidates", form.tied},
                                                     {"decided_by_tie", form.decided_by_tie}});
  return json;
}

void print_json(const bench::Request& request, const bench::ProjectionErrors& errors,
                const bench::GateErrors& gate) {
  nlohmann::ordered_json json{{"version", FULGURITE_VERSION},
                              {"shape", request.shape.name},
                              {"isa", name(request.setting.target.isa)},
                              {"tokens", errors.tokens},
                              {"queries", errors.queries},
                              {"topk", errors.topk}};
  for (const bench::FormError& form : errors.forms)
    json["forms"].push_back(nlohmann::ordered_json{{"form", form.what},
                                                   {"numerics", form.numerics},
                                                   {"implementation", form.implementation},
                                                   {"gate", json_of(form.gate)},
                                                   {"k", json_of(form.key)},
                                                   {"choice_by_gate", json_of(form.by_gate)},
                                                   {"choice_by_both", json_of(form.by_both)}});
  json["head_gate"] = json_of(gate);
  fmt::print("{}\n", json.dump(2));
}

}  // namespace

int print_projection_errors(const bench::Request& request, int threads, bool json) {
  cpu::ThreadPool workers(threads);
  const Lane lane{threads, &workers, {}};
  const bench::ProjectionErrors errors = bench::projection_errors(request, lane);
  const bench::GateErrors gate = bench::gate_errors(request, lane);
  if (json) {
    print_json(request, errors, gate);
  } else {
    print_text(request, errors);
    print_text(gate);
  }
  return 0;
}

}  // namespace fulgurite::tool
