// The benchmark's own promises: nothing is timed that was not judged, a wrong row has no number, and a cold
// run is cold in every repeat.

#include <gtest/gtest.h>

#include <chrono>
#include <nlohmann/json.hpp>
#include <set>
#include <thread>

#include "bench/run.h"
#include "fulgurite/core/element.h"
#include "fulgurite/cpu/kernels.h"
#include "test/tool_run.h"

namespace fulgurite {
namespace {

bench::Request tiny_request(const plan::Catalog& catalog) {
  bench::Request request;
  request.shape = bench::shape_named("tiny-v32");
  request.setting = {cpu::machine().target,
                     Numerics::serving().resolved(request.shape.activation_scale, request.shape.index_quant)};
  request.catalog = &catalog;
  return request;
}

// The only case of that name with so many tokens.
bench::Result run_case(bench::Bench& bench, const bench::Request& request, const std::string& name) {
  const std::vector<bench::Case> cases = bench::cases_of(request, {name});
  EXPECT_EQ(cases.size(), 1u);
  return bench.run(cases.front());
}

// The operations of a shape's cases, each of which must be checked and have numbers.
std::set<std::string> timed_operations(const std::string& shape) {
  const test::ToolRun run = test::run_tool("bench --shape " + shape + " --tokens 1,3,17 --seconds 0 --json");
  EXPECT_EQ(run.exit_code, 0) << run.error;
  const auto json = nlohmann::json::parse(run.out);
  std::set<std::string> operations;
  for (const auto& c : json["cases"]) {
    operations.insert(c["operation"]);
    const std::string what = c.dump();
    EXPECT_TRUE(c["checked"].get<bool>()) << what;
    EXPECT_GT(c["bytes"].get<int64_t>(), 0) << what;
    EXPECT_GE(c["measurements"].size(), 2u) << what;
    for (const auto& m : c["measurements"]) {
      EXPECT_GE(m["repeats"].get<int64_t>(), bench::kFewestRepeats) << what;
      EXPECT_GT(m["median_us"].get<double>(), 0.0) << what;
      EXPECT_GT(m["share"].get<double>(), 0.0) << what;
    }
  }
  for (const auto& limits : json["limits"])
    for (const char* const key : {"read_gb_per_s", "pairs_gflop_per_s", "fp32_gflop_per_s"})
      EXPECT_GT(limits[key].get<double>(), 0.0) << key;
  return operations;
}

TEST(bench, every_operation_at_the_tiny_dimensions_is_checked_and_timed) {
  EXPECT_EQ(timed_operations("tiny-v32"),
            (std::set<std::string>{"linear", "head_projection", "indexer_projection", "indexer_prepare",
                                   "index_select", "latent_prepare", "sparse_attention", "router", "experts",
                                   "embedding", "norm", "rotary"}));
  EXPECT_EQ(timed_operations("tiny-v4"),
            (std::set<std::string>{"linear", "head_projection", "indexer_prepare", "index_select",
                                   "compressor", "compressed_attention", "hyper_connection", "query_prepare",
                                   "kv_prepare", "router", "experts", "embedding", "norm"}));
}

TEST(bench, the_other_numerics_have_their_own_cases) {
  for (const char* const numerics : {"fp32", "serving,mla=expanded"}) {
    const test::ToolRun run = test::run_tool(fmt::format(
        "bench --shape tiny-v32 --tokens 2 --seconds 0 --threads 1 --json --numerics {}", numerics));
    EXPECT_EQ(run.exit_code, 0) << numerics << run.error;
  }
}

// The peak of the arithmetic that the row has, whatever the activations: no share can exceed it by much.
TEST(bench, a_case_is_held_against_the_peak_of_its_rows_arithmetic) {
  const auto arithmetic = [](const std::string& operation, const std::string& numerics) {
    const test::ToolRun run = test::run_tool(
        fmt::format("bench {} --shape tiny-v32 --tokens 1 --seconds 0 --threads 1 --json --numerics {}",
                    operation, numerics));
    return nlohmann::json::parse(run.out)["cases"][0]["arithmetic"].get<std::string>();
  };
  EXPECT_EQ(arithmetic("linear.q_a", "serving"), "pairs");
  EXPECT_EQ(arithmetic("linear.q_a", "fp32"), "fp32");
  EXPECT_EQ(arithmetic("linear.q_a", "fp32,activation_quant=e4m3"), "pairs");
  EXPECT_EQ(arithmetic("linear.head", "fp32,activation_quant=e4m3"), "fp32");
  EXPECT_EQ(arithmetic("index_select.512", "fp32"), "fp32");
  EXPECT_EQ(arithmetic("index_select.512", "fp32,index_quant=fp8"), "pairs");
  EXPECT_EQ(arithmetic("expanded_attention", "serving,mla=expanded"), "fp32");
  EXPECT_EQ(arithmetic("norm", "serving"), "fp32");
}

// arithmetic_of() reads a row's name: a row of another name has to be thought of there.
TEST(bench, every_row_of_the_catalog_has_a_name_that_says_what_it_multiplies) {
  const std::set<std::string> known{"cpu", "reference", "cpu_pairs", "cpu_bf16", "cpu_fp8"};
  const auto check = [&](const auto& rows) {
    for (const auto* const row : rows)
      EXPECT_TRUE(row->device != DeviceKind::kCpu || row->run == nullptr || known.contains(row->name))
          << row->name;
  };
  const auto& [embedding, norm, linear, rotary, latent, projection, prepare, select, head, sparse, expanded,
               router, experts, streams, query, kv, compressor, compressed, largest] = plan::catalog();
  check(embedding), check(norm), check(linear), check(rotary), check(latent), check(projection);
  check(prepare), check(select), check(head), check(sparse), check(expanded), check(router), check(experts);
  check(streams), check(query), check(kv), check(compressor), check(compressed);
  check(largest);
}

TEST(bench, the_list_is_a_table_or_json) {
  const std::string list = "bench indexer_projection index_select --shape tiny-v32 --list";
  EXPECT_NE(test::run_tool(list).out.find("128+8x384 e4m3+bf16"), std::string::npos);
  const auto json =
      nlohmann::json::parse(test::run_tool(list + " --json --numerics serving,gate_weight=fp8").out);
  EXPECT_EQ(json[0]["operation"], "indexer_projection");
  EXPECT_EQ(json[0]["case"], "128+8x384 e4m3+e4m3");
  EXPECT_EQ(json[0]["tokens"], 1);
  EXPECT_GT(json[0]["memory_bytes"], 0);
  EXPECT_EQ(json.back()["name"], "2048");
}

TEST(bench, a_case_that_throws_fails_and_the_next_one_runs) {
  bench::CpuBench bench(cpu::best_isa(), {1}, 0.0);
  bench::Case bad;
  bad.make = []() -> std::unique_ptr<bench::Runnable> { throw std::bad_alloc(); };
  EXPECT_TRUE(bench.run(bad).failure);
}

// --- rows that are wrong on purpose ---

void add_to_last(const linear::Args& args) {
  const Tensor<2> y = args.y;
  const int64_t row = y.extent[0] - 1, column = y.extent[1] - 1;
  store(y, load(y, row, column) + 64.0f, row, column);
}

enum class Wrong { kAlways, kAmongOthers, kOnTwoThreads };
template <Wrong wrong>
void run_wrongly(const linear::Problem& problem, const linear::Args& args, const Lane& lane) {
  linear::kCpuFp8.run(problem, args, lane);
  if (wrong == Wrong::kAlways || (wrong == Wrong::kAmongOthers && args.x.extent[0] > 1) ||
      (wrong == Wrong::kOnTwoThreads && lane.threads > 1))
    add_to_last(args);
}
template <Wrong wrong>
constexpr linear::Implementation kWrongLinear{
    "wrong", [](const linear::Problem& p) { return linear::kCpuFp8.supports(p); },
    [](const linear::Problem& p, int threads) { return linear::kCpuFp8.workspace_bytes(p, threads); },
    run_wrongly<wrong>};

TEST(bench, a_wrong_row_fails_and_has_no_number) {
  bench::CpuBench bench(cpu::best_isa(), {1, 2}, 0.0);
  const auto failure = [&](const linear::Implementation& row) {
    const linear::Implementation* const rows[] = {&row};
    plan::Catalog catalog = plan::catalog();
    catalog.linear = rows;
    bench::Request request = tiny_request(catalog);
    request.tokens = {3};
    const bench::Result result = run_case(bench, request, "linear.kv_a");
    EXPECT_EQ(result.measurements.empty(), result.failure.has_value());
    return result.failure.value_or("");
  };
  EXPECT_EQ(failure(linear::kCpuFp8), "");
  EXPECT_NE(failure(kWrongLinear<Wrong::kAlways>).find("against the reference: y"), std::string::npos);
  EXPECT_NE(failure(kWrongLinear<Wrong::kAmongOthers>).find("other bits of y alone than among 3 tokens"),
            std::string::npos);
  EXPECT_NE(failure(kWrongLinear<Wrong::kOnTwoThreads>).find("on 2 thread(s)"), std::string::npos);
}

constexpr int64_t kLongContext = 65536;  // longer than what the reference is asked to do

void choose_wrongly(const index_select::Problem& problem, const index_select::Args& args, const Lane& lane) {
  index_select::kCpuPairs.run(problem, args, lane);
  // The first chosen position becomes one that is not chosen.
  if (problem.context == kLongContext && args.selected(0, 0) > 0) args.selected(0, 0) -= 1;
}
constexpr index_select::Implementation kWrongChoice{
    "wrong", [](const index_select::Problem& p) { return index_select::kCpuPairs.supports(p); },
    [](const index_select::Problem& p, int threads) {
      return index_select::kCpuPairs.workspace_bytes(p, threads);
    },
    choose_wrongly};

TEST(bench, a_wrong_choice_in_a_context_too_long_for_the_reference_fails) {
  const index_select::Implementation* const rows[] = {&kWrongChoice};
  plan::Catalog catalog = plan::catalog();
  catalog.index_select = rows;
  bench::Request request = tiny_request(catalog);
  request.shape.index_contexts = {kLongContext};
  request.tokens = {1};
  bench::CpuBench bench(cpu::best_isa(), {1}, 0.0);
  const bench::Result result = run_case(bench, request, "index_select");
  ASSERT_TRUE(result.failure);
  EXPECT_NE(result.failure->find("is not the exact top"), std::string::npos) << *result.failure;
  EXPECT_TRUE(result.measurements.empty());
}

// --- the clock ---

TEST(bench, what_comes_before_a_repeat_comes_before_each_and_is_not_timed) {
  int before = 0, repeats = 0;
  const bench::Timing timing = bench::time_repeats(
      [&] {
        ++before;
        std::this_thread::sleep_for(std::chrono::milliseconds(20));
      },
      [&] { ++repeats; }, 0.0);
  EXPECT_EQ(before, repeats);
  EXPECT_EQ(timing.repeats, repeats);
  EXPECT_GE(repeats, bench::kFewestRepeats);
  EXPECT_LT(timing.fastest, 0.02);
}

TEST(bench, the_summary_of_a_known_list) {
  std::vector<double> seconds;
  for (int i = 20; i >= 0; --i) seconds.push_back(i);
  const bench::Timing timing = bench::summary_of(seconds);
  EXPECT_EQ(timing.repeats, 21);
  EXPECT_EQ(timing.median, 10.0);
  EXPECT_EQ(timing.p10, 2.0);
  EXPECT_EQ(timing.p90, 18.0);
  EXPECT_EQ(timing.fastest, 0.0);
  EXPECT_EQ(bench::summary_of({1.0, 4.0}).median, 2.5);
}

TEST(bench, the_bound_is_the_slower_of_memory_and_arithmetic) {
  const bench::Limits limits{1, 10.0, 100.0, 50.0};
  const bench::Bound memory = bench::bound_of({100, 500, bench::Arithmetic::kPairs}, limits),
                     compute = bench::bound_of({10, 500, bench::Arithmetic::kFp32}, limits);
  EXPECT_TRUE(memory.by_memory);
  EXPECT_EQ(memory.seconds, 10.0);
  EXPECT_FALSE(compute.by_memory);
  EXPECT_EQ(compute.seconds, 10.0);
}

TEST(bench, more_is_read_between_cold_repeats_than_the_caches_hold) {
  EXPECT_GT(bench::LargeBuffer::flushed_bytes(), 2 * bench::cache_bytes());
  EXPECT_GE(bench::LargeBuffer::size(), bench::LargeBuffer::flushed_bytes());
}

}  // namespace
}  // namespace fulgurite
