// Router and experts against their references.

#include "bench/cuda/steps_probe.h"

#include <memory>

#include "fulgurite/ops/experts/experts.h"
#include "fulgurite/ops/experts/experts_audit.h"
#include "fulgurite/ops/router/router.h"
#include "fulgurite/ops/router/router_audit.h"

namespace fulgurite::probe {
namespace {

constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();

// --- router ---

struct RouterCase {
  int64_t tokens, hidden, experts, groups, kept, chosen;
};

struct RouterCounts {
  int64_t weights = 0, differ = 0, judged = 0;
} router_counts;

void check_router(const RouterCase& c, const char* numerics, bool wide_weight, router::Scoring scoring,
                  bool hashed, bool spoiled) {
  router::Problem problem{setting_of(numerics),
                          c.hidden,
                          c.experts,
                          hashed ? 1 : c.groups,
                          hashed ? 1 : c.kept,
                          c.chosen,
                          2.5f,
                          {},
                          scoring,
                          hashed,
                          hashed ? 20 : 0};
  const bool wide = problem.setting.numerics.activation == Activation::kFp32;
  Random random{static_cast<uint64_t>(c.tokens * 7 + c.experts)};
  Activations x(wide ? DType::kF32 : DType::kBF16, c.tokens, c.hidden, 8);
  x.fill(random);
  Activations weight(wide_weight ? DType::kF32 : DType::kBF16, c.experts, c.hidden);
  weight.fill(random, 1.0f / std::sqrt(static_cast<float>(c.hidden)));
  Shared<float> bias(static_cast<size_t>(c.experts));
  for (int64_t e = 0; e < c.experts; ++e) bias.data[e] = 0.1f * random.normal();
  if (spoiled) {  // ties between experts, rows of NaN and infinity
    for (int64_t e = 1; e < c.experts; e += 2) {
      bias.data[e] = bias.data[e - 1];
      for (int64_t i = 0; i < c.hidden; ++i)
        weight.set(
            e, i,
            wide_weight ? weight.view.as<float>()(e - 1, i) : to_float(weight.view.as<bf16>()(e - 1, i)));
    }
    if (c.tokens > 1) x.set(1, c.hidden / 2, kNaN);
    if (c.tokens > 2) x.set(2, 0, std::numeric_limits<float>::infinity());
    if (c.experts > 3) bias.data[3] = kNaN;
  }
  PreparedMatrix matrix;
  matrix.out = c.experts, matrix.in = c.hidden;
  if (wide_weight)
    matrix.as = View<const float, 2>(weight.view.as<float>());
  else
    matrix.as = View<const bf16, 2>(weight.view.as<bf16>());
  problem.weight = format_of(matrix);
  const auto results = static_cast<size_t>(c.tokens * c.chosen);
  Shared<int32_t> ids(results), expected_ids(results), names(static_cast<size_t>(c.tokens));
  Shared<float> weights(results), expected_weights(results);
  Shared<int64_t> table(static_cast<size_t>(20 * c.chosen));
  for (int64_t t = 0; t < c.tokens; ++t) names.data[t] = random.below(20);
  for (int64_t r = 0; r < 20; ++r)
    for (int64_t j = 0; j < c.chosen; ++j)
      table.data[r * c.chosen + j] = (r * 5 + (c.chosen - j) * 3) % c.experts;
  router::Args args{x.view,
                    &matrix,
                    {bias.data, {hashed ? 0 : c.experts}},
                    {ids.data, {c.tokens, c.chosen}},
                    {weights.data, {c.tokens, c.chosen}}};
  if (hashed) args.ids = {names.data, {c.tokens}}, args.hash_table = {table.data, {20, c.chosen}};
  const std::string what = text(
      "router %s M=%d hidden=%d experts=%d groups=%d chosen=%d f32=%d scoring=%d hashed=%d "
      "spoiled=%d",
      numerics, int(c.tokens), int(c.hidden), int(c.experts), int(problem.groups), int(c.chosen), wide_weight,
      int(scoring), hashed, spoiled);
  if (!claim(!router::kCudaHopper.supports(problem), what + ": supported")) return;
  const Workspace workspace(router::kCudaHopper.workspace_bytes(problem, 1));
  router::kCudaHopper.run(problem, args, workspace.lane());
  synchronize(what);
  router::Args reference = args;
  reference.expert_ids = {expected_ids.data, {c.tokens, c.chosen}};
  reference.expert_weights = {expected_weights.data, {c.tokens, c.chosen}};
  router::kReference.run(problem, reference, {});
  int64_t other_ids = 0, other_weights = 0;
  for (size_t i = 0; i < results; ++i) {
    other_ids += ids.data[i] != expected_ids.data[i];
    other_weights += !same_value(weights.data[i], expected_weights.data[i]);
  }
  router_counts.weights += static_cast<int64_t>(results);
  router_counts.differ += other_weights;
  claim(other_ids == 0, what + text(": %d ids differ", int(other_ids)));
  if (other_weights == 0) return;
  ++router_counts.judged;
  Lane lane = workspace.lane();
  lane.waits = true;
  const audit::OpReport report = router::judge(router::kCudaHopper, problem, args, lane);
  claim(report.within(), what + "\n" + audit::describe(report));
}

// --- experts ---

enum class Kind { kFp8, kFp8Exponents, kFp8Channels, kFp4, kBf16 };

// One matrix of random codes and scales.
struct RandomMatrix {
  Shared<uint8_t> codes;
  Shared<float> scales;
  Shared<uint8_t> exponents;
  PreparedMatrix matrix;

  static int64_t columns_bytes(Kind kind, int64_t in) {
    return kind == Kind::kBf16 ? in * 2 : kind == Kind::kFp4 ? in / 2 : in;
  }
  RandomMatrix(Kind kind, int64_t out, int64_t in, Random& random)
      : codes(static_cast<size_t>(out * columns_bytes(kind, in))),
        scales(static_cast<size_t>(out * ((in + 127) / 128))),
        exponents(static_cast<size_t>(out * ((in + 31) / 32))) {
    for (size_t i = 0; i < codes.count; ++i) {
      uint8_t code = static_cast<uint8_t>(random.bits());
      codes.data[i] = (code & 0x7F) == 0x7F ? code ^ 1 : code;
    }
    if (kind == Kind::kBf16)
      for (size_t i = 0; i < codes.count; i += 2) {
        const bf16 value = to_bf16(random.normal() * 0.05f);
        std::memcpy(codes.data + i, &value, 2);
      }
    for (size_t i = 0; i < scales.count; ++i)
      scales.data[i] = static_cast<float>(1e-4 * (0.5 + random.uniform()));
    for (size_t i = 0; i < exponents.count; ++i)
      exponents.data[i] = static_cast<uint8_t>(120 + random.below(5));
    matrix.out = out, matrix.in = in;
    const auto e4m3s = View<const e4m3, 2>(reinterpret_cast<const e4m3*>(codes.data), {out, in});
    const int64_t rows = (out + 127) / 128, columns = (in + 127) / 128;
    const auto* const powers = reinterpret_cast<const e8m0*>(exponents.data);
    BlockScaled blocks{e4m3s, {scales.data, {rows, columns}}, {128, 128}};
    if (kind == Kind::kFp8Channels) blocks.scale = {scales.data, {out, 1}}, blocks.block = {1, kWhole};
    if (kind == Kind::kFp8Exponents) {
      blocks.scale = {};
      blocks.format = ScaleFormat::kE8M0;
      blocks.exponents = {powers, {rows, columns}};
    }
    if (kind == Kind::kFp4)
      matrix.as =
          Mxfp4{{reinterpret_cast<const e2m1x2*>(codes.data), {out, in / 2}}, {powers, {out, in / 32}}};
    else if (kind == Kind::kBf16)
      matrix.as = View<const bf16, 2>(reinterpret_cast<const bf16*>(codes.data), {out, in});
    else
      matrix.as = blocks;
  }
  RandomMatrix(const RandomMatrix&) = delete;
};

struct ExpertsCase {
  const char* numerics;
  Kind kind, shared_kind;
  int64_t tokens, hidden, experts, chosen, width, shared_width;
  float limit;  // 0: none
  bool before, spoiled;
};

experts::Mlp make_mlp(std::vector<std::unique_ptr<RandomMatrix>>& all, Kind kind, int64_t hidden,
                      int64_t width, Random& random) {
  for (const bool into : {true, true, false})
    all.push_back(std::make_unique<RandomMatrix>(kind, into ? width : hidden, into ? hidden : width, random));
  const size_t n = all.size();
  return {all[n - 3]->matrix, all[n - 2]->matrix, all[n - 1]->matrix};
}

int64_t experts_outputs = 0, experts_differ = 0;

void check_case(const ExpertsCase& c) {
  Random random{static_cast<uint64_t>(c.tokens * 131 + c.hidden + c.width)};
  std::vector<std::unique_ptr<RandomMatrix>> matrices;
  std::vector<experts::Mlp> routed;
  for (int64_t e = 0; e < c.experts; ++e)
    routed.push_back(make_mlp(matrices, c.kind, c.hidden, c.width, random));
  experts::Mlp shared;
  if (c.shared_width > 0) shared = make_mlp(matrices, c.shared_kind, c.hidden, c.shared_width, random);
  experts::Problem problem;
  problem.setting = setting_of(c.numerics, ActivationScale::kFp32);
  problem.hidden = c.hidden, problem.experts = c.experts, problem.experts_per_token = c.chosen;
  problem.width = c.width, problem.shared_width = c.shared_width, problem.largest_batch = c.tokens;
  if (c.experts > 0) problem.weight = format_of(routed[0].gate);
  if (c.shared_width > 0) problem.shared_weight = format_of(shared.gate);
  if (c.limit > 0.0f) problem.limit = c.limit;
  problem.weight_before_down = c.before;
  Activations x(DType::kBF16, c.tokens, c.hidden, 8), out(DType::kBF16, c.tokens, c.hidden, 8),
      expected(DType::kBF16, c.tokens, c.hidden, 8);
  x.fill(random);
  if (c.spoiled) {
    if (c.tokens > 1) x.set(1, c.hidden - 1, kNaN);
    if (c.tokens > 2) x.set(2, 0, std::numeric_limits<float>::infinity());
    if (c.tokens > 3)
      for (int64_t i = 0; i < c.hidden; ++i) x.set(3, i, i % 2 == 0 ? 0.0f : 1e-30f);
    matrices[0]->codes.data[static_cast<size_t>(c.hidden) + 1] = 0xFF;  // a NaN of row 1, or another value
  }
  const auto pairs = static_cast<size_t>(c.experts > 0 ? c.tokens * c.chosen : 0);
  Shared<int32_t> ids(pairs);
  Shared<float> weights(pairs);
  for (size_t i = 0; i < pairs; ++i) weights.data[i] = static_cast<float>(random.uniform());
  for (int64_t t = 0; c.experts > 0 && t < c.tokens; ++t) {  // ascending and different
    int64_t next = 0;
    for (int64_t j = 0; j < c.chosen; ++j) {
      const int64_t left = c.experts - next - (c.chosen - j);
      next += random.below(static_cast<int>(left + 1));
      ids.data[t * c.chosen + j] = static_cast<int32_t>(next++);
    }
  }
  experts::Args args;
  args.x = x.view;
  if (c.experts > 0) {
    args.expert_ids = {ids.data, {c.tokens, c.chosen}};
    args.expert_weights = {weights.data, {c.tokens, c.chosen}};
    args.experts = routed;
  }
  if (c.shared_width > 0) args.shared = &shared;
  const std::string what = text(
      "experts %s kinds %d, %d M=%d hidden=%d experts=%d of %d width=%d, %d limit=%g before=%d spoiled=%d",
      c.numerics, int(c.kind), int(c.shared_kind), int(c.tokens), int(c.hidden), int(c.chosen),
      int(c.experts), int(c.width), int(c.shared_width), double(c.limit), c.before, c.spoiled);
  if (const Support refused = experts::kCudaHopper.supports(problem)) {
    claim(false, what + ": " + refused->reason);
    return;
  }
  const Workspace workspace(experts::kCudaHopper.workspace_bytes(problem, 1));
  args.out = out.view;
  experts::kCudaHopper.run(problem, args, workspace.lane());
  synchronize(what);
  args.out = expected.view;
  experts::kReference.run(problem, args, {});
  const int64_t differ = differing(out, expected);
  experts_outputs += c.tokens * c.hidden;
  experts_differ += differ;
  const bool exact = c.kind != Kind::kBf16 && c.shared_kind != Kind::kBf16;
  if (exact) claim(differ == 0, what + text(": %d of %d differ", int(differ), int(c.tokens * c.hidden)));
  if (exact || differ == 0) return;
  Lane lane = workspace.lane();
  lane.waits = true;
  args.out = out.view;
  const audit::OpReport report = experts::judge(experts::kCudaHopper, problem, args, lane);
  claim(report.within(), what + "\n" + audit::describe(report));
}

}  // namespace

void check_routers() {
  const int c0 = checks, f0 = failures;
  const RouterCase cases[] = {{0, 16, 8, 2, 1, 2},      {1, 16, 8, 2, 1, 2},     {2, 8, 1, 1, 1, 1},
                              {5, 24, 7, 7, 3, 2},      {3, 32, 12, 4, 2, 6},    {65, 40, 9, 3, 2, 4},
                              {37, 384, 8, 4, 2, 2},    {4, 7168, 256, 8, 4, 8}, {9, 6144, 256, 1, 1, 8},
                              {16, 7168, 256, 8, 4, 8}, {2, 7168, 384, 1, 1, 6}, {1100, 64, 16, 4, 2, 4},
                              {3, 2056, 1000, 8, 2, 32}};
  using router::Scoring;
  for (const RouterCase& c : cases)
    for (const bool spoiled : {false, true}) {
      check_router(c, "serving", false, Scoring::kSigmoid, false, spoiled);
      check_router(c, "serving", true, Scoring::kSqrtSoftplus, false, spoiled);
      if (c.hidden >= 6144 && c.tokens > 4) continue;
      check_router(c, "fp32", true, Scoring::kSigmoid, false, spoiled);
      check_router(c, "fp32", false, Scoring::kSqrtSoftplus, false, spoiled);
      if (c.experts > 12 && !spoiled) check_router(c, "serving", false, Scoring::kSqrtSoftplus, true, false);
    }
  report("router", c0, f0);
  std::printf("  weights of experts: %ld, other bits than the reference: %ld in %ld cases, judged\n",
              long(router_counts.weights), long(router_counts.differ), long(router_counts.judged));
}

void repeat_experts(int times) {
  const int c0 = checks, f0 = failures;
  for (int i = 0; i < times; ++i) {
    check_router({37, 384, 8, 4, 2, 2}, "serving", false, router::Scoring::kSigmoid, false, true);
    check_case({"serving", Kind::kFp8, Kind::kFp8, 9, 384, 8, 2, 128, 128, 0.0f, false, true});
    check_case(
        {"serving,activation_scale=pow2", Kind::kFp4, Kind::kFp8, 5, 96, 7, 3, 64, 160, 0.1f, true, true});
  }
  report("experts, repeated", c0, f0);
}

void check_experts() {
  const int c0 = checks, f0 = failures;
  const auto every = [](Kind kind, Kind shared, const char* numerics, float limit, bool before) {
    for (const bool spoiled : {false, true}) {
      check_case({numerics, kind, shared, 0, 64, 4, 2, 32, 32, limit, before, spoiled});
      check_case({numerics, kind, shared, 1, 32, 1, 1, 32, 32, limit, before, spoiled});
      check_case({numerics, kind, shared, 5, 96, 7, 3, 64, 160, limit, before, spoiled});
      check_case({numerics, kind, shared, 9, 384, 8, 2, 128, 128, limit, before, spoiled});
      check_case({numerics, kind, shared, 4, 544, 5, 2, 288, 0, limit, before, spoiled});
      check_case({numerics, kind, shared, 70, 64, 4, 2, 96, 96, limit, before, spoiled});
      check_case({numerics, kind, shared, 3, 256, 0, 0, 0, 1024, limit, before, spoiled});
    }
    check_case({numerics, kind, shared, 2, 7168, 3, 2, 32, 32, limit, before, false});
    check_case({numerics, kind, shared, 1, 64, 2, 1, 2048, 2048, limit, before, false});
  };
  every(Kind::kFp8, Kind::kFp8, "serving", 0.0f, false);
  every(Kind::kFp8, Kind::kFp8, "serving,activation_scale=pow2", 0.02f, false);
  every(Kind::kFp8Exponents, Kind::kFp8Channels, "serving,scale_form=divided", 0.0f, true);
  every(Kind::kFp8Channels, Kind::kFp8Channels, "serving", 0.0f, false);
  every(Kind::kFp4, Kind::kFp8, "serving,activation_scale=pow2", 0.1f, true);
  every(Kind::kFp4, Kind::kFp4, "serving,activation_scale=pow2,shared_clamp=on", 0.1f, false);
  every(Kind::kBf16, Kind::kBf16, "serving", 0.0f, false);
  every(Kind::kFp8, Kind::kBf16, "serving", 0.0f, false);
  check_case({"serving", Kind::kFp8, Kind::kFp8, 600, 64, 6, 2, 32, 32, 0.0f, false, false});  // two chunks
  report("experts", c0, f0);
  std::printf("  outputs: %ld, other bits than the reference (bf16 weights alone): %ld\n",
              long(experts_outputs), long(experts_differ));
}

}  // namespace fulgurite::probe
