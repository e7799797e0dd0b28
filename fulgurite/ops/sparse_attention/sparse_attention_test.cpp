// Longer than other tests: the whole contract of the operation, claim by claim.

#include "fulgurite/ops/sparse_attention/sparse_attention.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "fulgurite/ops/sparse_attention/sparse_attention_cases.h"
#include "test/op_test.h"

namespace fulgurite::sparse_attention {
namespace {

using inputs::Buffer;
using inputs::Values;

constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();
constexpr float kInfinity = std::numeric_limits<float>::infinity();
const Implementation* const kBoth[] = {&kReference, &kCpu};

struct Inputs {
  Buffer<3> q;
  Buffer<3> q_rope;
  Buffer<3> cache;
  Selection selection;
};

Inputs make_inputs(uint64_t seed, const Case& shape, Values values) {
  Random random(seed);
  return {inputs::make(random, values, shape.tokens, shape.heads, shape.latent),
          inputs::make(random, values, shape.tokens, shape.heads, shape.rope),
          inputs::make(random, values, shape.sequences, shape.context, shape.latent + shape.rope),
          make_selection(random, shape.tokens, shape.topk, shape.sequences, shape.context)};
}

Problem problem_of(const Case& shape, Isa isa = cpu::best_isa()) {
  const auto scale = static_cast<float>(1.0 / std::sqrt(static_cast<double>(shape.latent + shape.rope)));
  return {test::fp32_setting(isa), shape.heads,  shape.latent, shape.rope, shape.topk, scale,
          shape.sequences,         shape.context};
}

Buffer<3> result(const Implementation& implementation, const Problem& problem, const Inputs& in,
                 int threads = 1) {
  Random unused(0);
  Buffer<3> out = inputs::make(unused, Values::kConstant, in.q.view.extent[0], problem.heads, problem.latent);
  test::run(implementation, problem,
            Args{in.q.view, in.q_rope.view, in.cache.view, in.selection.selected(), in.selection.places(),
                 out.view},
            threads);
  return out;
}

// One head of one token in double, without a rounding: the scores, their largest magnitude, the softmax.
struct Exact {
  std::vector<double> p;
  double largest_magnitude = 0.0;
};

Exact exact_softmax(const Problem& problem, const Inputs& in, int64_t t, int64_t h) {
  const View<const float, 2> rows = in.cache.view[in.selection.token_places[static_cast<size_t>(t)].sequence];
  Exact exact;
  double top = -std::numeric_limits<double>::infinity();
  for (int64_t j = 0; j < problem.topk && in.selection.selected()(t, j) >= 0; ++j) {
    double sum = 0.0, magnitude = 0.0;
    for (int64_t c = 0; c < problem.latent + problem.rope; ++c) {
      const double q = c < problem.latent ? in.q.view(t, h, c) : in.q_rope.view(t, h, c - problem.latent);
      const double product = q * rows(in.selection.selected()(t, j), c);
      sum += product;
      magnitude += std::abs(product);
    }
    exact.p.push_back(sum * problem.scale);
    exact.largest_magnitude = std::max(exact.largest_magnitude, magnitude * problem.scale);
    top = std::max(top, exact.p.back());
  }
  double sum = 0.0;
  for (double& p : exact.p) sum += p = std::exp(p - top);
  for (double& p : exact.p) p /= sum;
  return exact;
}

// The tolerance of the contract, and the smallest denormal for each product.
std::vector<double> bound(const Problem& problem, const Inputs& in) {
  std::vector<double> bounds;
  const auto topk = static_cast<double>(problem.topk);
  for (int64_t t = 0; t < in.q.view.extent[0]; ++t) {
    const View<const float, 2> rows =
        in.cache.view[in.selection.token_places[static_cast<size_t>(t)].sequence];
    for (int64_t h = 0; h < problem.heads; ++h) {
      const Exact exact = exact_softmax(problem, in, t, h);
      const double width = static_cast<double>(problem.latent + problem.rope);
      const double score_error = (width / 16 + 12) * 0x1p-24 * exact.largest_magnitude;
      const double share = std::expm1(2 * score_error) + (topk + topk / 16 + 28) * 0x1p-24;
      for (int64_t c = 0; c < problem.latent; ++c) {
        double magnitude = 0.0;
        for (size_t j = 0; j < exact.p.size(); ++j)
          magnitude += exact.p[j] * std::abs(rows(in.selection.selected()(t, static_cast<int64_t>(j)), c));
        bounds.push_back(share * magnitude + topk * 0x1p-149);
      }
    }
  }
  return bounds;
}

void expect_agreement(const Case& shape, Values values) {
  SCOPED_TRACE(fmt::format("{}, {}, seed 1", shape.what, inputs::name(values)));
  const Inputs in = make_inputs(1, shape, values);
  const Problem problem = problem_of(shape);
  const Buffer<3> expected = result(kReference, problem, in);
  EXPECT_TRUE(test::agrees(result(kCpu, problem, in).elements, expected.elements, bound(problem, in)));
}

TEST(sparse_attention, agrees_with_the_reference_at_awkward_sizes_on_hard_values) {
  for (const Case& shape : kAwkwardCases)
    for (const Values values : inputs::kAllValues) expect_agreement(shape, values);
}

TEST(sparse_attention, agrees_with_the_reference_at_real_sizes) {
  for (const Case& shape : kRealCases) expect_agreement(shape, Values::kNormal);
}

TEST(sparse_attention, the_reference_is_the_exact_attention_but_for_its_roundings) {
  const Case shape{"", 3, 3, 40, 9, 30, 2, 90};
  const Inputs in = make_inputs(2, shape, Values::kNormal);
  const Problem problem = problem_of(shape);
  std::vector<float> expected;
  for (int64_t t = 0; t < shape.tokens; ++t) {
    const View<const float, 2> rows =
        in.cache.view[in.selection.token_places[static_cast<size_t>(t)].sequence];
    for (int64_t h = 0; h < shape.heads; ++h) {
      const Exact exact = exact_softmax(problem, in, t, h);
      for (int64_t c = 0; c < shape.latent; ++c) {
        double sum = 0.0;
        for (size_t j = 0; j < exact.p.size(); ++j)
          sum += exact.p[j] * rows(in.selection.selected()(t, static_cast<int64_t>(j)), c);
        expected.push_back(static_cast<float>(sum));
      }
    }
  }
  EXPECT_TRUE(test::agrees(result(kReference, problem, in).elements, expected, bound(problem, in)));
}

TEST(sparse_attention, one_selected_row_is_the_output) {
  const Case shape{"", 1, 6, 35, 3, 4, 1, 9};
  Inputs in = make_inputs(3, shape, Values::kNormal);
  in.selection.lists = {5, -1, -1, -1};
  for (const Implementation* const row : kBoth) {
    const Buffer<3> out = result(*row, problem_of(shape), in);
    for (int64_t h = 0; h < 6; ++h)
      for (int64_t c = 0; c < 35; ++c) EXPECT_EQ(out.view(0, h, c), in.cache.view(0, 5, c));
  }
}

TEST(sparse_attention, equal_scores_give_the_mean_of_the_rows) {
  const Case shape{"", 1, 2, 5, 2, 4, 1, 9};
  Inputs in = make_inputs(4, shape, Values::kNormal);
  in.q.elements.assign(in.q.elements.size(), 0.0f);
  in.q_rope.elements.assign(in.q_rope.elements.size(), 0.0f);
  for (float& x : in.cache.elements) x = std::round(x * 4);
  in.selection.lists = {1, 3, 6, 8};
  for (const Implementation* const row : kBoth) {
    const Buffer<3> out = result(*row, problem_of(shape), in);
    for (int64_t c = 0; c < 5; ++c) {
      float sum = 0.0f;
      for (const int32_t s : in.selection.lists) sum += in.cache.view(0, s, c);
      EXPECT_EQ(out.view(0, 1, c), sum / 4);
    }
  }
}

TEST(sparse_attention, scores_far_apart_neither_overflow_nor_lose_the_largest) {
  const Case shape{"", 1, 1, 4, 0, 3, 1, 3};
  Inputs in = make_inputs(5, shape, Values::kConstant);
  in.selection.lists = {0, 1, 2};
  for (int64_t c = 0; c < 4; ++c) {
    in.q.view(0, 0, c) = 1e15f;
    in.cache.view(0, 0, c) = -1e15f;
    in.cache.view(0, 1, c) = 1e15f;
    in.cache.view(0, 2, c) = 0.0f;
  }
  for (const Implementation* const row : kBoth)
    EXPECT_EQ(result(*row, problem_of(shape), in).view(0, 0, 2), 1e15f);
}

TEST(sparse_attention, gives_the_same_bits_for_any_batch_threads_and_instruction_set) {
  const Case shape{"", 5, 7, 77, 13, 40, 2, 99};
  const Inputs in = make_inputs(6, shape, Values::kNormal);
  const Buffer<3> whole = result(kCpu, problem_of(shape), in);
  for (const Isa isa : test::machine_isas()) {
    SCOPED_TRACE(name(isa));
    for (const int threads : {1, 2, 3})
      EXPECT_TRUE(
          test::identical(result(kCpu, problem_of(shape, isa), in, threads).elements, whole.elements));
    for (int64_t t = 0; t < shape.tokens; ++t) {
      Inputs one = in;
      one.q.view = in.q.view.slice(0, t, 1);
      one.q_rope.view = in.q_rope.view.slice(0, t, 1);
      one.selection.token_places = {in.selection.token_places[static_cast<size_t>(t)]};
      const auto list = in.selection.lists.begin() + t * shape.topk;
      one.selection.lists.assign(list, list + shape.topk);
      const Buffer<3> alone = result(kCpu, problem_of(shape, isa), one, 2);
      EXPECT_TRUE(test::identical(alone.elements,
                                  {whole.view[t].data, static_cast<size_t>(shape.heads * shape.latent)}));
    }
  }
}

TEST(sparse_attention, a_NaN_in_q_stays_in_its_head) {
  const Case shape{"", 3, 6, 20, 5, 12, 1, 40};
  Inputs in = make_inputs(7, shape, Values::kNormal);
  in.q.view(0, 1, 19) = kNaN;
  in.q_rope.view(2, 5, 0) = kNaN;
  in.q.view(1, 3, 0) = kNaN;
  for (const Implementation* const row : kBoth) {
    const Buffer<3> out = result(*row, problem_of(shape), in);
    for (int64_t t = 0; t < 3; ++t)
      for (int64_t h = 0; h < 6; ++h)
        for (int64_t c = 0; c < 20; ++c)
          EXPECT_EQ(std::isnan(out.view(t, h, c)),
                    (t == 0 && h == 1) || (t == 2 && h == 5) || (t == 1 && h == 3));
  }
}

TEST(sparse_attention, a_bad_row_reaches_only_the_tokens_that_selected_it) {
  for (const float bad : {kNaN, kInfinity}) {
    const Case shape{"", 3, 2, 20, 5, 4, 1, 10};
    Inputs in = make_inputs(8, shape, Values::kNormal);
    in.selection.token_places = {{0, 9}, {0, 9}, {0, 9}};
    in.selection.lists = {1, 2, 3, 4, 0, 4, 9, -1, 0, 1, 5, 9};
    for (int64_t s : {4, 6}) in.cache.view(0, s, 22) = bad;
    in.q_rope.elements.assign(in.q_rope.elements.size(), 1.0f);
    for (const Implementation* const row : kBoth) {
      const Buffer<3> out = result(*row, problem_of(shape), in);
      for (int64_t t = 0; t < 3; ++t)
        for (int64_t h = 0; h < 2; ++h)
          for (int64_t c = 0; c < 20; ++c) EXPECT_EQ(std::isnan(out.view(t, h, c)), t != 2);
    }
  }
}

TEST(sparse_attention, reads_and_writes_tensors_of_any_stride) {
  const Case wide{"", 3, 6, 40, 8, 10, 2, 60};
  Inputs in = make_inputs(9, wide, Values::kNormal);
  in.q.view = in.q.view.slice(1, 1, 4).slice(2, 5, 20);
  in.q_rope.view = in.q_rope.view.slice(1, 2, 4).slice(2, 3, 5);
  in.cache.view = in.cache.view.slice(2, 11, 25);
  const Problem problem = problem_of({"", 3, 4, 20, 5, 10, 2, 60});
  const Buffer<3> expected = result(kReference, problem, in);
  Random random(9);
  Buffer<3> out = inputs::make(random, Values::kConstant, 3, 5, 33);
  const View<float, 3> part = out.view.slice(1, 1, 4).slice(2, 7, 20);
  test::run(
      kCpu, problem,
      Args{in.q.view, in.q_rope.view, in.cache.view, in.selection.selected(), in.selection.places(), part});
  std::vector<float> actual;
  for (int64_t i = 0; i < 3 * 4 * 20; ++i) actual.push_back(part(i / 80, i / 20 % 4, i % 20));
  EXPECT_TRUE(test::agrees(actual, expected.elements, bound(problem, in)));
  for (int64_t t = 0; t < 3; ++t) {
    EXPECT_EQ(out.view(t, 0, 10), 0.5f);
    EXPECT_EQ(out.view(t, 1, 6), 0.5f);
    EXPECT_EQ(out.view(t, 4, 27), 0.5f);
  }
}

TEST(sparse_attention, names_the_tensor_that_breaks_the_contract) {
  const Case shape{"", 2, 3, 4, 2, 3, 2, 9};
  const Problem problem = problem_of(shape);
  Inputs in = make_inputs(10, shape, Values::kNormal);
  in.selection.token_places = {{0, 8}, {1, 3}};
  Buffer<3> out = make_inputs(10, shape, Values::kNormal).q;
  const auto message = [&](std::vector<int32_t> lists, auto change) {
    in.selection.lists = lists;
    Args args{in.q.view, in.q_rope.view, in.cache.view, in.selection.selected(), in.selection.places(),
              out.view};
    change(args);
    return test::message_of([&] { check(problem, args); });
  };
  const auto nothing = [](Args&) {};
  const std::vector<int32_t> good{0, 2, 8, 3, -1, -1};
  EXPECT_EQ(message(good, nothing), "");
  EXPECT_EQ(message(good, [&](Args& args) { args.q = in.q.view.slice(2, 0, 3); }),
            "sparse_attention: q: expected shape [2, 3, 4], found [2, 3, 3]");
  EXPECT_EQ(message(good, [&](Args& args) { args.q_rope = in.q_rope.view.slice(1, 0, 2); }),
            "sparse_attention: q_rope: expected shape [2, 3, 2], found [2, 2, 2]");
  EXPECT_EQ(message(good, [&](Args& args) { args.cache = in.cache.view.slice(1, 0, 8); }),
            "sparse_attention: cache: expected shape [2, 9, 6], found [2, 8, 6]");
  EXPECT_EQ(message(good, [](Args& args) { args.selected = args.selected.slice(1, 0, 2); }),
            "sparse_attention: selected: expected shape [2, 3], found [2, 2]");
  EXPECT_EQ(message(good, [](Args& args) { args.places = args.places.slice(0, 0, 1); }),
            "sparse_attention: places: expected shape [2], found [1]");
  EXPECT_EQ(message(good, [](Args& args) { args.out = args.out.as<float>().slice(0, 0, 1); }),
            "sparse_attention: out: expected shape [2, 3, 4], found [1, 3, 4]");
  EXPECT_EQ(message({0, 2, 8, 4, -1, -1}, nothing),
            "sparse_attention: selected: expected a value in [0, 3], found 4");
  EXPECT_EQ(message({0, 2, 2, 3, -1, -1}, nothing),
            "sparse_attention: selected: expected a value in [3, 8], found 2");
  EXPECT_EQ(message({0, 2, 1, 3, -1, -1}, nothing),
            "sparse_attention: selected: expected a value in [3, 8], found 1");
  EXPECT_EQ(message({0, 2, 8, 3, -1, 3}, nothing),
            "sparse_attention: selected, after a -1: expected a value in [-1, -1], found 3");
  EXPECT_EQ(message({0, 2, 8, -1, -1, -1}, nothing),
            "sparse_attention: selected: expected a value in [0, 3], found -1");
  EXPECT_EQ(message({0, 2, -2, 3, -1, -1}, nothing),
            "sparse_attention: selected: expected a value in [3, 8], found -2");
  in.selection.token_places[1].sequence = 2;
  EXPECT_EQ(message(good, nothing),
            "sparse_attention: places, a sequence: expected a value in [0, 1], found 2");
  in.selection.token_places[1] = {1, 9};
  EXPECT_EQ(message(good, nothing),
            "sparse_attention: places, a position: expected a value in [0, 8], found 9");
}

TEST(sparse_attention, refuses_numerics_that_it_does_not_do) {
  const Numerics serving = Numerics::serving();
  for (const Implementation* const row : kBoth) {
    const auto reason = [&](auto Numerics::*knob, auto value) {
      Problem problem = problem_of(kAwkwardCases[0]);
      problem.setting.numerics.*knob = value;
      return test::refusal(*row, problem);
    };
    EXPECT_EQ(reason(&Numerics::activation, serving.activation), "activation = bf16, takes fp32");
    EXPECT_EQ(reason(&Numerics::mla, Mla::kExpanded), "mla = expanded, takes absorbed");
    EXPECT_EQ(reason(&Numerics::latent_cache, serving.latent_cache), "latent_cache = fp8, takes fp32");
    EXPECT_EQ(reason(&Numerics::softmax_tile, serving.softmax_tile), "softmax_tile = 64, takes none");
    EXPECT_EQ(reason(&Numerics::softmax_p, serving.softmax_p), "softmax_p = bf16, takes fp32");
    EXPECT_EQ(reason(&Numerics::qk_operands, serving.qk_operands), "qk_operands = bf16, takes fp32");
    EXPECT_EQ(reason(&Numerics::mma, Mma::kHopper), "mma = hopper, takes exact");
  }
}

}  // namespace
}  // namespace fulgurite::sparse_attention
