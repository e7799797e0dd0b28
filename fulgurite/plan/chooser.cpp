#include "fulgurite/plan/chooser.h"

#include "fulgurite/core/requantized.h"
#include "fulgurite/plan/bytes.h"
#include "fulgurite/plan/joined.h"
#include "fulgurite/plan/requantization.h"

namespace fulgurite::plan {
namespace {

constexpr const char* kJoined = "linear qkv_a";

// How a row is handed scales that are stored as `stored`, if it reads `read`.
std::string scales_text(const MatrixFormat& stored, const MatrixFormat& read) {
  if (read == stored) return "as stored";
  if (read.layout == ScaleLayout::kTiles) return "e8m0 in tiles of 128x4, the same values";
  if (read.layout == ScaleLayout::kRowMajor)
    return fmt::format("the tensor's in each block of {}x{}", read.block.rows, read.block.columns);
  return requantizes(stored, read) ? "requantized to powers of two, e8m0 packed in int32"
                                   : "e8m0 packed in int32, the same values";
}

// What plan::prepare makes of a weight that a row reads in another form than the stored.
int64_t bytes_made(const linear::Problem& stored, const MatrixFormat& read) {
  if (read == stored.weight) return 0;
  const int64_t codes = requantizes(stored.weight, read) ? product({stored.out, stored.in}) : 0;
  if (read.layout == ScaleLayout::kPacked)
    return codes + PackedScales::bytes(stored.out, stored.in, read.block);
  const auto blocks = [](int64_t extent, int64_t block) { return (extent + block - 1) / block; };
  const int64_t element = read.scale == ScaleFormat::kF32 ? 4 : 1;
  return codes +
         product({blocks(stored.out, read.block.rows), blocks(stored.in, read.block.columns), element});
}

}  // namespace

std::string shaped(const StoredMatrix& matrix) {
  return fmt::format("{} [{}, {}]", describe(format_of(matrix)), matrix.out, matrix.in);
}

std::string place(int64_t layer, const std::string& operation) {
  return layer == model::kNoLayer ? operation : fmt::format("layer {} {}", layer, operation);
}

std::string reading_text(const StoredMatrix& weight, const linear::Problem& problem) {
  const bool rounds = !linear::quantizes(problem) && problem.weight.form != MatrixForm::kBF16 &&
                      linear::reading_of(problem) == WeightReading::kBf16;
  return shaped(weight) + (rounds ? ", read as bf16" : "");
}

// Rows of another kind of device are not worth a line, nor Hopper's of another GPU, unless one is required.
bool Chooser::is_candidate(const std::string& operation, std::string_view name, DeviceKind device) const {
  const bool elsewhere = device != kind() || (name.ends_with("_hopper") && setting_.target.sm != 90);
  return !elsewhere || is_reference(name) ||
         std::ranges::any_of(plan_.options.demands, [&](const Demand& demand) {
           return demand.kind == DemandKind::kRequire && demand.implementation == name &&
                  concerns(demand, operation);
         });
}

// What the request refuses, before the row's own rule is asked.
Support Chooser::refused_unasked(const std::string& operation, std::string_view name,
                                 DeviceKind device) const {
  if (device != kind() && !is_reference(name))
    return Refusal{fmt::format("runs on {}, the target is {}", fulgurite::name(device),
                               fulgurite::name(setting_.target))};
  for (const Demand& demand : plan_.options.demands) {
    if (!concerns(demand, operation)) continue;
    const bool named = demand.implementation == name;
    if (demand.kind == DemandKind::kForbid && named) return Refusal{"forbidden"};
    if (demand.kind == DemandKind::kRequire && !named) return Refusal{demand.implementation + " is required"};
  }
  if (plan_.options.candidates == Candidates::kReferencesOnly && name != "reference")
    return Refusal{"only references are asked for"};
  return std::nullopt;
}

NormStep Chooser::choose_norm(int64_t layer, const std::string& operation, int64_t width, float eps) {
  return choose(layer, operation, fmt::format("f32 [{}]", width), catalog().norm,
                norm::Problem{setting_, width, eps});
}

LinearStep Chooser::choose_linear(int64_t layer, const std::string& name, const StoredMatrix& weight,
                                  linear::Output output) {
  const linear::Problem problem{setting_, weight.in, weight.out, format_of(weight), output, batch()};
  const LinearStep step =
      choose(layer, "linear " + name, reading_text(weight, problem), catalog().linear, problem);
  if (has_scales(problem.weight)) plan_.rows.back().scales = scales_text(problem.weight, step.problem.weight);
  plan_.bytes.requantized += bytes_made(problem, step.problem.weight);
  return step;
}

Support Chooser::refused_joined(const NamedWeight& q_a, const NamedWeight& kv) const {
  for (const NamedWeight* const part : {&q_a, &kv})
    for (const Demand& demand : plan_.options.demands)
      if (demand.operation == "linear " + part->name) return Refusal{describe(demand)};
  if (const Support refusal = joins(q_a.weight, kv.weight)) return refusal;
  const StoredMatrix both = outline_of_joined(q_a.weight, kv.weight);
  return refused(kJoined, linear::kCudaHopper,
                 {setting_, both.in, both.out, format_of(both), linear::Output::kActivation, batch()});
}

std::optional<LinearStep> Chooser::choose_joined(int64_t layer, const NamedWeight& q_a,
                                                 const NamedWeight& kv) {
  if (kind() != DeviceKind::kCuda || setting_.target.sm != 90) return std::nullopt;
  if (const Support refusal = refused_joined(q_a, kv)) {
    refused_.push_back(fmt::format("one product with {}: {}", kv.name, refusal->reason));
    return std::nullopt;
  }
  const LinearStep step = choose_linear(layer, "qkv_a", outline_of_joined(q_a.weight, kv.weight));
  plan_.rows.back().format += fmt::format(": {} and {}", q_a.name, kv.name);
  return step;
}

}  // namespace fulgurite::plan
