// Holds DeepSeek-V4's attention rows of Hopper against the references, and times them.
//   probe check | small | time | some | variants | profile
// Built by ./dev probes.

#include "bench/cuda/window_attention_probe.h"

#include <mutex>

#include "fulgurite/core/random.h"
#include "fulgurite/ops/compressed_attention/compressed_attention_audit.h"
#include "fulgurite/ops/compressed_attention/compressed_attention_rules.h"

namespace fulgurite::probe {
namespace {

namespace ca = compressed_attention;

constexpr int64_t kWindow = 128, kDim = 512, kRope = 64;

enum class Odd { kNone, kNanQuery, kInfiniteQuery, kNanCode, kNanScale, kLargeScale, kSinks, kLarge };

struct Case {
  int64_t heads, ratio, topk, sequences, context;
  std::vector<int32_t> positions;  // token t is of sequence t % sequences
  Odd odd = Odd::kNone;
  int64_t listed = -1;  // entries of a list, at most
};

std::string name_of(const Case& c) {
  return text("%d heads, ratio %d, topk %d, %d sequence(s), %d tokens, first at %d, odd %d", int(c.heads),
              int(c.ratio), int(c.topk), int(c.sequences), int(c.positions.size()),
              c.positions.empty() ? -1 : c.positions[0], int(c.odd));
}

ca::Problem problem_of(const Case& c) {
  const auto tokens = static_cast<int64_t>(c.positions.size());
  ca::Problem p{setting_of("serving"), c.heads, kDim, kRope, kWindow, c.ratio, c.topk};
  p.scale = static_cast<float>(1.0 / std::sqrt(double{kDim}));
  p.sequences = c.sequences;
  p.ring = kWindow + tokens;
  p.entries = c.ratio == 0 ? 0 : c.context / c.ratio;
  p.positions = c.context;
  p.largest_batch = tokens;
  return ca::kCudaHopper.states(p);
}

struct Inputs {
  ca::Problem problem;
  Both<uint16_t> q, out;
  Both<float> sink, cosine, sine;
  Both<std::byte> window, entries;
  Both<TokenPlace> places;
  Both<int32_t> lists;
  int64_t tokens, q_gap = 8;

  explicit Inputs(const Case& c)
      : problem(problem_of(c)),
        q(c.positions.size() * static_cast<size_t>(c.heads * kDim + 8)),
        out(c.positions.size() * static_cast<size_t>(c.heads * kDim)),
        sink(static_cast<size_t>(c.heads)),
        cosine(static_cast<size_t>(c.context * kRope / 2)),
        sine(static_cast<size_t>(c.context * kRope / 2)),
        window(static_cast<size_t>(ca::row_of(problem).cache_bytes(c.sequences, problem.ring))),
        entries(static_cast<size_t>(ca::row_of(problem).cache_bytes(c.sequences, problem.entries))),
        places(c.positions.size()),
        lists(c.positions.size() * static_cast<size_t>(c.topk)),
        tokens(static_cast<int64_t>(c.positions.size())) {
    Random random(static_cast<uint64_t>(c.heads * 131 + c.ratio * 17 + tokens + int(c.odd)));
    fill(c, random);
    spoil(c);
  }

  ca::Args args() const {
    const KvRow row = ca::row_of(problem);
    ca::Args a;
    View<bf16, 3> queries{reinterpret_cast<bf16*>(q.data), {tokens, problem.heads, kDim}};
    queries.stride = {problem.heads * kDim + q_gap, kDim, 1};
    a.q = Tensor<3>(queries);
    a.sink = {sink.data, {problem.heads}};
    a.window = {row, {window.data, {problem.sequences, KvRow::blocks(problem.ring), row.block_bytes()}}};
    a.entries = {row, {entries.data, {problem.sequences, KvRow::blocks(problem.entries), row.block_bytes()}}};
    a.selected = {lists.data, {tokens, problem.topk}};
    a.places = {places.data, {tokens}};
    a.table = {{cosine.data, {problem.positions, kRope / 2}}, {sine.data, {problem.positions, kRope / 2}}};
    a.out = Tensor<3>(View<bf16, 3>{reinterpret_cast<bf16*>(out.data), {tokens, problem.heads, kDim}});
    return a;
  }

 private:
  KvRows rows(const Both<std::byte>& cache, int64_t count) const {
    const KvRow row = ca::row_of(problem);
    return {row, {cache.data, {problem.sequences, KvRow::blocks(count), row.block_bytes()}}};
  }
  // Rows of either cache as kv_prepare writes them; the padding of a row's scales as it comes.
  void fill_rows(const KvRows& cache, int64_t count, float size, Random& random) const {
    std::vector<float> values(kDim);
    for (int64_t s = 0; s < problem.sequences; ++s)
      for (int64_t r = 0; r < count; ++r) {
        for (float& x : values) x = round_to_bf16(size * normal(random.bits()));
        store_kv_row(cache, s, r, values, KvQuant::kE4m3);
      }
  }
  void fill(const Case& c, Random& random) {
    for (size_t i = 0; i < q.count; ++i)
      q.data[i] = to_bf16(normal(random.bits()) * (c.odd == Odd::kLarge ? 30.0f : 1.5f)).bits;
    for (size_t h = 0; h < sink.count; ++h) sink.data[h] = normal(random.bits()) * 2.0f;
    for (size_t i = 0; i < cosine.count; ++i) {
      const double angle = random.below(100000) * 1e-3;
      cosine.data[i] = static_cast<float>(std::cos(angle)),
      sine.data[i] = static_cast<float>(std::sin(angle));
    }
    fill_rows(rows(window, problem.ring), problem.ring, 1.0f, random);
    fill_rows(rows(entries, problem.entries), problem.entries, 1.0f, random);
    for (size_t t = 0; t < places.count; ++t) {
      places.data[t] = {static_cast<int32_t>(t % static_cast<size_t>(problem.sequences)), c.positions[t]};
      draw_list(c, t, random);
    }
  }
  void draw_list(const Case& c, size_t t, Random& random) {
    const int64_t visible = ca::visible_entries(problem, c.positions[t]);
    int64_t left = std::min(visible, c.topk), at = 0;
    if (c.listed >= 0) left = std::min(left, c.listed);
    for (int64_t e = 0; e < visible && left > 0; ++e)
      if (random.below(visible - e) < left) lists.data[t * c.topk + at++] = static_cast<int32_t>(e), --left;
    for (; at < c.topk; ++at) lists.data[t * c.topk + at] = -1;
  }
  void spoil(const Case& c) {
    if (tokens == 0) return;
    const KvRows ring = rows(window, problem.ring);
    const int64_t own = c.positions[0] % problem.ring;  // the first token's row
    const float infinity = std::numeric_limits<float>::infinity();
    if (c.odd == Odd::kNanQuery) q.data[kDim + 77] = 0x7FC0;
    if (c.odd == Odd::kInfiniteQuery) q.data[kDim + 300] = 0x7F80, q.data[2 * kDim + 500] = 0xFF80;
    if (c.odd == Odd::kNanCode) ring.at(0, own)[201] = std::byte{0xFF};
    if (c.odd == Odd::kNanScale) ring.scales_at(0, own)[6] = std::byte{0xFF};
    if (c.odd == Odd::kLargeScale) {  // and small ones, in q too: scores stay within reason
      ring.scales_at(0, own)[2] = std::byte{140};
      ring.scales_at(0, own)[5] = std::byte{0};
      for (int64_t i = 0; i < tokens * c.heads; ++i)
        for (int64_t k = 128; k < 192; ++k)
          q.data[i / c.heads * (c.heads * kDim + q_gap) + i % c.heads * kDim + k] &= 0xBA00;
    }
    if (c.odd == Odd::kSinks)
      for (size_t h = 0; h < sink.count; ++h)
        sink.data[h] =
            std::array<float, 8>{-infinity, infinity, 1e30f, -1e30f, 88.0f, 200.0f, NAN, -3.0f}[h % 8];
  }
};

thread_local ca::HopperPlan forced;
void run_forced(const ca::Problem& problem, const ca::Args& args, const Lane& lane) {
  ca::run_hopper(problem, args, lane, forced);
}

std::mutex printing;
double worst = 0.0;

void hold(const Case& c, const Inputs& in, const ca::HopperPlan* plan) {
  const auto& problem = in.problem;
  const ca::HopperPlan used = plan != nullptr ? *plan : ca::hopper_plan(problem, in.tokens);
  const OnDevice device(ca::hopper_workspace_bytes(in.tokens, problem.heads, used.splits));
  ca::Implementation row = ca::kCudaHopper;
  if (plan != nullptr) forced = *plan, row.run = run_forced;
  const auto report = ca::judge(row, problem, in.args(), device.lane());
  const auto& d = report.outputs[0].difference;
  const std::lock_guard lock(printing);
  worst = std::max(worst, d.worst_share);
  const std::string what = name_of(c) + text(", splits %d, block %d", used.splits, used.block_heads);
  claim(report.within(), what + ": " + audit::describe(d));
  claim(d.looseness < 0.5 || c.odd != Odd::kNone, what + text(": looseness %.2f", d.looseness));
  std::printf("%s: %.2f of its bound, L2 %.1e, looseness %.3f\n", what.c_str(), d.worst_share, d.relative_l2,
              d.looseness);
}

std::vector<uint16_t> result(const Inputs& in, const ca::HopperPlan& plan) {
  std::memset(in.out.data, 0xCD, in.out.count * 2);
  const OnDevice device(ca::hopper_workspace_bytes(in.tokens, in.problem.heads, plan.splits));
  ca::run_hopper(in.problem, in.args(), device.lane(), plan);
  return {in.out.data, in.out.data + in.out.count};
}

bool same(const std::vector<uint16_t>& a, const std::vector<uint16_t>& b) {
  for (size_t i = 0; i < a.size(); ++i)
    if (!probe::same(a[i], b[i])) return false;
  return a.size() == b.size();
}

// The same bits from launch to launch, in blocks of any heads, and for a token alone.
void check_bits(const Case& c, int launches) {
  const Inputs in(c);
  const ca::HopperPlan plan = ca::hopper_plan(in.problem, in.tokens);
  const auto first = result(in, plan);
  const OnDevice device(ca::hopper_workspace_bytes(in.tokens, in.problem.heads, plan.splits));
  int differ = 0;
  for (int i = 0; i < launches; ++i) {
    std::memset(in.out.data, 0xCD, in.out.count * 2);
    for (int k = 0; k <= i % 3; ++k) ca::run_hopper(in.problem, in.args(), device.lane(k == i % 3), plan);
    differ += std::memcmp(first.data(), in.out.data, in.out.count * 2) != 0;
  }
  claim(differ == 0, name_of(c) + text(": %d of %d launches differ", differ, launches));
  for (const int heads : {8, 16, 32, 64})
    if (c.heads % heads == 0)
      claim(same(result(in, {plan.splits, heads}), first), name_of(c) + text(": blocks of %d heads", heads));
  for (int64_t t = 0; t < in.tokens; t += 3) {
    ca::Args args = in.args();
    args.q = args.q.slice(0, t, 1);
    args.places = {args.places.data + t, {1}};
    args.selected = {args.selected.data + t * c.topk, {1, c.topk}};
    args.out = args.out.slice(0, t, 1);
    std::memset(in.out.data, 0xCD, in.out.count * 2);
    ca::run_hopper(in.problem, args, device.lane(), plan);
    const auto width = static_cast<size_t>(c.heads * kDim);
    claim(std::memcmp(in.out.data + t * width, first.data() + t * width, width * 2) == 0,
          name_of(c) + text(": token %d alone", int(t)));
  }
}

std::vector<int32_t> run_from(int32_t first, int count) {
  std::vector<int32_t> positions;
  for (int i = 0; i < count; ++i) positions.push_back(first + i);
  return positions;
}

std::vector<Case> cases() {
  std::vector<Case> all;
  for (const auto& [ratio, topk] : {std::pair<int64_t, int64_t>{0, 0}, {4, 512}, {4, 32}, {128, 0}}) {
    all.push_back({8, ratio, topk, 1, 256, {0}});
    all.push_back({16, ratio, topk, 1, 256, {1}});
    all.push_back({8, ratio, topk, 6, 5200, {63, 64, 127, 128, 129, 5000}});
    all.push_back({64, ratio, topk, 1, 5200, {5000}});
    all.push_back({8, ratio, topk, 1, 700, run_from(100, 40)});
    all.push_back({24, ratio, topk, 3, 700, {3, 600, 130}});
  }
  all.push_back({128, 4, 1024, 1, 5200, {5000}});
  all.push_back({64, 4, 512, 2, 5200, {5000, 4000}, Odd::kNone, 0});
  all.push_back({64, 4, 512, 2, 5200, {5000, 4000}, Odd::kNone, 100});
  all.push_back({16, 1, 0, 1, 8192, {8191}});  // 8,192 entries
  for (const Odd odd : {Odd::kNanQuery, Odd::kInfiniteQuery, Odd::kNanCode, Odd::kNanScale, Odd::kLargeScale,
                        Odd::kSinks, Odd::kLarge}) {
    all.push_back({8, 4, 32, 2, 700, {600, 200}, odd});
    all.push_back({8, 128, 0, 1, 700, {70}, odd});
  }
  all.push_back({64, 4, 512, 1, 256, {}});
  return all;
}

}  // namespace

void check_attention(bool small) {
  const auto all = cases();
  parallel(static_cast<int>(all.size()), [&](int i) {
    const Case& c = all[static_cast<size_t>(i)];
    if (small && (c.heads > 24 || c.context > 5200)) return;
    const Inputs in(c);
    hold(c, in, nullptr);
    if (c.heads == 8 || c.positions.size() > 6)
      for (const ca::HopperPlan& plan : {ca::HopperPlan{1, 8}, ca::HopperPlan{3, 8}, ca::HopperPlan{32, 8}})
        hold(c, in, &plan);
  });
  std::printf("worst: %.3f of the bound\n", worst);
  check_bits({64, 4, 512, 1, 5200, {5000}}, small ? 5 : 1000);
  check_bits({128, 4, 1024, 3, 5200, {5000, 100, 3000, 4000, 77}}, small ? 5 : 1000);
  check_bits({64, 128, 0, 1, 5200, run_from(4000, 9)}, small ? 5 : 1000);
  ca::Problem problem = problem_of({64, 4, 512, 1, 256, {0}});
  claim(!ca::kCudaHopper.supports(problem), "serving is taken");
  problem.setting = setting_of("fp32");
  claim(ca::kCudaHopper.supports(problem).has_value(), "fp32 is refused");
  report_checks("compressed_attention");
}

}  // namespace fulgurite::probe

int main(int count, char** words) {
  using namespace fulgurite::probe;
  const std::string what = count > 1 ? words[1] : "check";
  if (what == "check" || what == "small") {
    check_prepared();
    check_attention(what == "small");
  } else if (what == "profile") {
    profile_attention();
  } else if (what == "some") {
    time_some();
  } else {
    time_prepared();
    time_attention(what == "variants");
  }
  return failed() != 0;
}
