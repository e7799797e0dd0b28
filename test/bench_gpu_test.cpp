// The benchmark of a GPU (the machine's, or the generic rows as loops on the host: test/gpu.h): its own promises are those of
// bench_test.cpp, and that what is timed is what was judged, wherever it lies.

#include <gtest/gtest.h>

#include "bench/gpu_limits.h"
#include "bench/placed.h"
#include "bench/run.h"
#include "test/gpu.h"

namespace fulgurite {
namespace {

bench::GpuBench gpu_bench(double longest = 10.0) {
  const auto emulated = [](void*) { return bench::Limits{1, 1e9, 1e9, 1e9, 1e9}; };
  return {test::gpu(),
          {.seconds = 0.0, .fewest = 2, .cold_bytes = 100'000, .longest = longest},
          cuda::is_built() ? &bench::measure_gpu_limits : +emulated};
}

bench::Request request_of(const std::string& shape, const plan::Catalog& catalog = plan::catalog()) {
  bench::Request request;
  request.shape = bench::shape_named(shape);
  request.shape.index_contexts = {512};
  request.shape.attention_context = 512;
  request.setting = {test::gpu().target,
                     Numerics::serving().resolved(request.shape.activation_scale, request.shape.index_quant)};
  request.catalog = &catalog;
  request.tokens = {3};
  return request;
}

TEST(bench_gpu, every_operation_is_judged_and_timed) {
  bench::GpuBench bench = gpu_bench();
  int fast = 0;
  for (const char* const shape : {"tiny-v32", "tiny-v4"}) {
    const bench::Request request = request_of(shape);
    for (const bench::Case& c : bench::cases_of(request, {})) {
      const bench::Result result = bench.run(c);
      EXPECT_FALSE(result.failure) << shape << " " << c.title() << ": " << *result.failure;
      const bool hopper = result.implementation.ends_with("_hopper");
      EXPECT_TRUE(result.implementation == "cuda" || hopper) << c.title() << ": " << result.implementation;
      fast += hopper;
      ASSERT_EQ(result.measurements.size(), 1u) << c.title();
      EXPECT_GE(result.measurements.front().timing.repeats, 2) << c.title();
      EXPECT_GT(result.measurements.front().timing.median, 0.0) << c.title();
    }
  }
  EXPECT_EQ(fast > 0, test::has_hopper());
}

TEST(bench_gpu, a_row_that_would_take_too_long_is_skipped_and_says_so) {
  bench::GpuBench bench = gpu_bench(1e-9);
  const bench::Request request = request_of("tiny-v32");
  const bench::Result result = bench.run(bench::cases_of(request, {"linear.q_a"}).front());
  EXPECT_TRUE(result.skipped);
  EXPECT_FALSE(result.failure);
  EXPECT_TRUE(result.measurements.empty());
}

// Wrong where the host cannot read, so that no judge of shared memory sees it.
void run_wrongly(const linear::Problem& problem, const linear::Args& args, const Lane& lane) {
  linear::Problem one = problem;
  linear::Args first = args;
  if (args.x.extent[0] > 1) {
    first.x = args.x.slice(0, 0, 1);
    first.y = args.y.slice(0, 0, 1);
  }
  linear::kCuda.run(one, first, lane);
}
constexpr linear::Implementation kWrong{
    "cuda", [](const linear::Problem& p) { return linear::kCuda.supports(p); },
    [](const linear::Problem& p, int threads) { return linear::kCuda.workspace_bytes(p, threads); },
    run_wrongly, DeviceKind::kCuda};

TEST(bench_gpu, a_row_that_is_wrong_among_others_fails_and_has_no_number) {
  const linear::Implementation* const rows[] = {&kWrong};
  plan::Catalog catalog = plan::catalog();
  catalog.linear = rows;
  const bench::Request request = request_of("tiny-v32", catalog);
  bench::GpuBench bench = gpu_bench();
  const bench::Result result = bench.run(bench::cases_of(request, {"linear.kv_a"}).front());
  ASSERT_TRUE(result.failure);
  EXPECT_NE(result.failure->find("other bits of y alone than among 3 tokens"), std::string::npos)
      << *result.failure;
  EXPECT_TRUE(result.measurements.empty());
}

// --- what rows of Hopper state ---

// Where the build has no kernel of it, the reference of the stated problem is the row.
template <class Row>
Row runnable(Row row, const Row& reference) {
  if (row.run == nullptr) row.run = reference.run;
  return row;
}
bool takes_hopper() { return !cuda::is_built() || test::has_hopper(); }

// DeepSeek-V3.2's widths of what kernels are made for; little of everything else.
bench::Request hopper_request(const plan::Catalog& catalog) {
  bench::Request request = request_of("v32-671b", catalog);
  bench::Shape& s = request.shape;
  s.hidden = 512;
  s.q_lora = 256;
  s.heads = 8;
  s.attention_heads = {8, 16};
  s.index_topk = 64;
  s.index_contexts = {500, 4500};  // of the longer one the reference is given the last rows
  s.attention_context = 500;
  return request;
}

TEST(bench_gpu, rows_of_hopper_are_judged_by_the_problem_that_they_state) {
  if (!takes_hopper()) GTEST_SKIP() << "no kernels of Hopper, or no such GPU";
  plan::Catalog catalog = plan::catalog();
  const auto multiplies = runnable(linear::kCudaHopper, linear::kReference);
  const auto* const multiplies_rows = &multiplies;
  catalog.linear = {&multiplies_rows, 1};
  const auto projects_heads = runnable(head_projection::kCudaHopper, head_projection::kReference);
  const auto* const projects_heads_rows = &projects_heads;
  catalog.head_projection = {&projects_heads_rows, 1};
  const auto projects = runnable(indexer_projection::kCudaHopper, indexer_projection::kReference);
  const auto* const projects_rows = &projects;
  catalog.indexer_projection = {&projects_rows, 1};
  const auto prepares = runnable(indexer_prepare::kCudaHopper, indexer_prepare::kReference);
  const auto* const prepares_rows = &prepares;
  catalog.indexer_prepare = {&prepares_rows, 1};
  const auto selects = runnable(index_select::kCudaHopper, index_select::kReference);
  const auto* const selects_rows = &selects;
  catalog.index_select = {&selects_rows, 1};
  const auto attends = runnable(sparse_attention::kCudaHopper, sparse_attention::kReference);
  const auto* const attends_rows = &attends;
  catalog.sparse_attention = {&attends_rows, 1};
  const bench::Request request = hopper_request(catalog);
  bench::GpuBench bench = gpu_bench();
  for (const bench::Case& c :
       bench::cases_of(request, {"linear.o", "linear.q_b", "head_projection", "indexer_projection",
                                 "indexer_prepare", "index_select", "sparse_attention"})) {
    const bench::Result result = bench.run(c);
    EXPECT_FALSE(result.failure) << c.title() << ": " << *result.failure;
    EXPECT_EQ(result.implementation, "cuda_hopper") << c.title();
    EXPECT_EQ(result.measurements.size(), 1u) << c.title();
  }
}

// Wrong in the last of several tokens.
void attend_wrongly(const sparse_attention::Problem& problem, const sparse_attention::Args& args,
                    const Lane& lane) {
  sparse_attention::kCuda.run(problem, args, lane);
  const int64_t last = args.q.extent[0] - 1;
  if (last == 0) return;
  sparse_attention::Args other = args;
  other.q = args.q.slice(0, 0, 1);
  other.out = args.out.slice(0, last, 1);
  other.q_rope = args.q_rope.slice(0, 0, 1);
  other.selected = args.selected.slice(0, last, 1);
  other.places = args.places.slice(0, last, 1);
  if (args.slots) other.slots = args.slots.slice(0, last, 1);
  sparse_attention::kCuda.run(problem, other, lane);
}
sparse_attention::Problem with_runs(const sparse_attention::Problem& asked) {
  sparse_attention::Problem stated = asked;
  stated.runs = 32;
  return stated;
}

TEST(bench_gpu, a_row_of_several_runs_is_judged_among_the_other_tokens) {
  static auto row = sparse_attention::kCuda;
  row.states = with_runs;
  const sparse_attention::Implementation* const rows[] = {&row};
  plan::Catalog catalog = plan::catalog();
  catalog.sparse_attention = rows;
  const bench::Request request = request_of("tiny-v32", catalog);
  bench::GpuBench bench = gpu_bench();
  const std::vector<bench::Case> cases = bench::cases_of(request, {"sparse_attention"});
  EXPECT_FALSE(bench.run(cases.front()).failure);
  row.run = attend_wrongly;
  const bench::Result result = bench.run(cases.front());
  ASSERT_TRUE(result.failure);
  EXPECT_NE(result.failure->find("against the reference"), std::string::npos) << *result.failure;
  EXPECT_TRUE(result.measurements.empty());
}

// --- placed ---

struct Given {
  const PreparedMatrix* weight;
  View<const float, 1> x;
  Tensor<1> y;
  int64_t count;
};

TEST(bench_gpu, a_copy_has_the_bytes_and_points_into_itself_alone) {
  bench::Arena arena;
  const View<float, 1> x = arena.vector(64, 0.0, 1.0);
  const Tensor<1> y = arena.unwritten<1>(DType::kF32, {64});
  const Given given{arena.object(arena.matrix(8, 64, bench::kFp8Matrix)), x.slice(0, 3, 5), y, 64};
  const bench::Placed<Given> once(arena, given, kHostMemory, nullptr), twice(once, nullptr);
  const auto scale = [](const Given& g) { return std::get<BlockScaled>(g.weight->as).scale.data; };
  for (const bench::Placed<Given>* const placed : {&once, &twice}) {
    const Given& moved = placed->args();
    EXPECT_NE(moved.weight, given.weight);
    EXPECT_NE(moved.x.data, given.x.data);
    EXPECT_EQ(moved.x(4), given.x(4));
    EXPECT_NE(scale(moved), scale(given));
    EXPECT_EQ(*scale(moved), *scale(given));
    EXPECT_EQ(moved.count, 64);
  }
  EXPECT_NE(once.args().x.data, twice.args().x.data);
  EXPECT_NE(scale(once.args()), scale(twice.args()));
  twice.args().y.data[7] = std::byte{1};
  EXPECT_EQ(y.data[7], std::byte{0x5A});
  twice.copies().read_back(nullptr);
  EXPECT_EQ(y.data[7], std::byte{1});
}

}  // namespace
}  // namespace fulgurite
