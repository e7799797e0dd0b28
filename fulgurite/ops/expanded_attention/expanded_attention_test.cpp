#include "fulgurite/ops/expanded_attention/expanded_attention.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "fulgurite/ops/expanded_attention/expanded_attention_cases.h"
#include "fulgurite/ops/sparse_attention/sparse_attention_cases.h"
#include "test/op_test.h"

namespace fulgurite::expanded_attention {
namespace {

using inputs::Buffer;
using inputs::Values;
using sparse_attention::Selection;

constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();
constexpr MatrixFormat kBlocks{MatrixForm::kE4M3Blocks, {128, 128}, ScaleFormat::kF32};
const Implementation* const kBoth[] = {&kReference, &kCpu};

struct Inputs {
  Buffer<3> q;
  inputs::Weight weight;
  Buffer<3> cache;
  Selection selection;
};

Inputs make_inputs(uint64_t seed, const Case& shape, const MatrixFormat& format, Values values) {
  Random random(seed);
  return {inputs::make(random, values, shape.tokens, shape.heads, shape.nope + shape.rope),
          inputs::make_weight(random, shape.heads * (shape.nope + shape.value), shape.latent, format),
          inputs::make(random, values, shape.sequences, shape.context, shape.latent + shape.rope),
          sparse_attention::make_selection(random, shape.tokens, shape.topk, shape.sequences, shape.context)};
}

Problem problem_of(const Case& shape, const MatrixFormat& format, Isa isa = cpu::best_isa()) {
  const double width = static_cast<double>((shape.nope + shape.rope) * shape.latent);
  Problem problem{test::fp32_setting(isa),
                  shape.heads,
                  shape.nope,
                  shape.rope,
                  shape.value,
                  shape.latent,
                  shape.topk,
                  0.0f,
                  format,
                  shape.sequences,
                  shape.context};
  problem.scale = static_cast<float>(1.0 / std::sqrt(width));
  problem.setting.numerics.mla = Mla::kExpanded;
  return problem;
}

Buffer<3> result(const Implementation& implementation, const Problem& problem, const Inputs& in,
                 int threads = 1) {
  Random unused(0);
  Buffer<3> out = inputs::make(unused, Values::kConstant, in.q.view.extent[0], problem.heads, problem.value);
  test::run(implementation, problem,
            Args{in.q.view, &in.weight.matrix, in.cache.view, in.selection.selected(), in.selection.places(),
                 out.view},
            threads);
  return out;
}

struct Sum {
  double value = 0.0;
  double magnitude = 0.0;
  void add(double product, double product_magnitude) {
    value += product;
    magnitude += product_magnitude;
  }
};

// One head of one token in double, in the absorbed order: (q K) row instead of q (K row).
struct Exact {
  const Problem& problem;
  const Inputs& in;
  int64_t t, h;

  View<const float, 2> rows() const {
    return in.cache.view[in.selection.token_places[static_cast<size_t>(t)].sequence];
  }
  int64_t row(int64_t j) const { return in.selection.selected()(t, j); }
  double weight(int64_t d, int64_t c) const {
    return exact_element(in.weight.matrix, h * (problem.nope + problem.value) + d, c);
  }
  std::vector<Sum> scores() const {
    std::vector<Sum> query(static_cast<size_t>(problem.latent + problem.rope));
    for (int64_t d = 0; d < problem.nope; ++d)
      for (int64_t c = 0; c < problem.latent; ++c) {
        const double product = in.q.view(t, h, d) * weight(d, c);
        query[static_cast<size_t>(c)].add(product, std::abs(product));
      }
    for (int64_t r = 0; r < problem.rope; ++r) {
      const double q = in.q.view(t, h, problem.nope + r);
      query[static_cast<size_t>(problem.latent + r)].add(q, std::abs(q));
    }
    std::vector<Sum> scores;
    for (int64_t j = 0; j < problem.topk && row(j) >= 0; ++j) {
      Sum sum;
      for (int64_t c = 0; c < problem.latent + problem.rope; ++c) {
        const Sum& q = query[static_cast<size_t>(c)];
        const double x = rows()(row(j), c);
        sum.add(q.value * x * problem.scale, q.magnitude * std::abs(x) * problem.scale);
      }
      scores.push_back(sum);
    }
    return scores;
  }
  // sum_j p_j v_j[d] and sum_j p_j v'_j[d]
  Sum output(const std::vector<double>& p, int64_t d) const {
    Sum sum;
    for (size_t j = 0; j < p.size(); ++j)
      for (int64_t c = 0; c < problem.latent; ++c) {
        const double product = p[j] * weight(problem.nope + d, c) * rows()(row(static_cast<int64_t>(j)), c);
        sum.add(product, std::abs(product));
      }
    return sum;
  }
};

std::vector<double> softmax(const std::vector<Sum>& scores) {
  double top = -std::numeric_limits<double>::infinity(), sum = 0.0;
  for (const Sum& score : scores) top = std::max(top, score.value);
  std::vector<double> p;
  for (const Sum& score : scores) sum += p.emplace_back(std::exp(score.value - top));
  for (double& x : p) x /= sum;
  return p;
}

struct Expected {
  std::vector<float> values;
  std::vector<double> bounds;
};

// What is exact, and the tolerance of the contract, with the smallest denormal for each product.
Expected exact(const Problem& problem, const Inputs& in) {
  Expected expected;
  const auto topk = static_cast<double>(problem.topk), latent = static_cast<double>(problem.latent);
  const double expansion = latent / 16 + 8;
  const double roundings = expansion + static_cast<double>(problem.nope + problem.rope) / 16 + 12;
  for (int64_t t = 0; t < in.q.view.extent[0]; ++t) {
    for (int64_t h = 0; h < problem.heads; ++h) {
      const Exact head{problem, in, t, h};
      const std::vector<Sum> scores = head.scores();
      const std::vector<double> p = softmax(scores);
      double largest = 0.0;
      for (const Sum& score : scores) largest = std::max(largest, score.magnitude);
      const double share =
          std::expm1(2 * roundings * 0x1p-24 * largest) + (expansion + topk + topk / 16 + 28) * 0x1p-24;
      for (int64_t d = 0; d < problem.value; ++d) {
        const Sum sum = head.output(p, d);
        expected.values.push_back(static_cast<float>(sum.value));
        expected.bounds.push_back(share * sum.magnitude + (topk + latent) * 0x1p-149);
      }
    }
  }
  return expected;
}

void expect_agreement(const Case& shape, const MatrixFormat& format, Values values) {
  SCOPED_TRACE(fmt::format("{}, {}, {}, seed 1", shape.what, describe(format), inputs::name(values)));
  const Inputs in = make_inputs(1, shape, format, values);
  const Problem problem = problem_of(shape, format);
  const Expected expected = exact(problem, in);
  const Buffer<3> reference = result(kReference, problem, in);
  EXPECT_TRUE(test::agrees(reference.elements, expected.values, expected.bounds));
  EXPECT_TRUE(test::agrees(result(kCpu, problem, in).elements, reference.elements, expected.bounds));
}

TEST(expanded_attention, agrees_with_the_reference_and_the_absorbed_order_on_hard_values) {
  for (const Case& shape : kAwkwardCases)
    for (const Values values : inputs::kAllValues) expect_agreement(shape, kBlocks, values);
}

TEST(expanded_attention, agrees_with_the_reference_for_every_weight_format) {
  for (const MatrixFormat& format : inputs::all_formats())
    expect_agreement(kAwkwardCases[2], format, Values::kNormal);
}

TEST(expanded_attention, agrees_with_the_reference_at_real_sizes) {
  for (const Case& shape : kRealCases) expect_agreement(shape, kBlocks, Values::kNormal);
}

TEST(expanded_attention, gives_the_same_bits_for_any_batch_threads_and_instruction_set) {
  const Case shape{"", 4, 3, 19, 13, 21, 77, 40, 2, 99};
  const Inputs in = make_inputs(2, shape, kBlocks, Values::kNormal);
  const Buffer<3> whole = result(kCpu, problem_of(shape, kBlocks), in);
  for (const Isa isa : test::machine_isas()) {
    SCOPED_TRACE(name(isa));
    const Problem problem = problem_of(shape, kBlocks, isa);
    for (const int threads : {1, 2, 3})
      EXPECT_TRUE(test::identical(result(kCpu, problem, in, threads).elements, whole.elements));
    for (int64_t t = 0; t < shape.tokens; ++t) {
      Inputs one = in;
      one.q.view = in.q.view.slice(0, t, 1);
      one.selection.token_places = {in.selection.token_places[static_cast<size_t>(t)]};
      const auto list = in.selection.lists.begin() + t * shape.topk;
      one.selection.lists.assign(list, list + shape.topk);
      EXPECT_TRUE(test::identical(result(kCpu, problem, one, 2).elements,
                                  {whole.view[t].data, static_cast<size_t>(shape.heads * shape.value)}));
    }
  }
}

TEST(expanded_attention, a_NaN_stays_in_its_head_or_in_the_tokens_that_selected_it) {
  const Case shape{"", 3, 2, 9, 4, 11, 20, 3, 1, 40};
  Inputs in = make_inputs(3, shape, kBlocks, Values::kNormal);
  in.selection.token_places = {{0, 39}, {0, 39}, {0, 39}};
  in.selection.lists = {1, 2, 3, 4, 5, 9, 0, 5, 8};
  in.q.view(0, 1, 12) = kNaN;
  in.cache.view(0, 4, 3) = kNaN;
  in.cache.view(0, 6, 3) = kNaN;
  for (const Implementation* const row : kBoth) {
    const Buffer<3> out = result(*row, problem_of(shape, kBlocks), in);
    for (int64_t t = 0; t < 3; ++t)
      for (int64_t h = 0; h < 2; ++h)
        for (int64_t d = 0; d < 11; ++d)
          EXPECT_EQ(std::isnan(out.view(t, h, d)), (t == 0 && h == 1) || t == 1);
  }
}

TEST(expanded_attention, names_the_tensor_that_breaks_the_contract) {
  const Case shape{"", 2, 3, 4, 2, 5, 7, 3, 2, 9};
  const Problem problem = problem_of(shape, kBlocks);
  Inputs in = make_inputs(4, shape, kBlocks, Values::kNormal);
  in.selection.token_places = {{0, 8}, {1, 3}};
  in.selection.lists = {0, 2, 8, 3, -1, -1};
  Random random(4);
  const Buffer<3> out = inputs::make(random, Values::kNormal, 2, 3, 5);
  const auto message = [&](auto change) {
    Args args{in.q.view, &in.weight.matrix, in.cache.view, in.selection.selected(), in.selection.places(),
              out.view};
    change(args);
    return test::message_of([&] { check(problem, args); });
  };
  EXPECT_EQ(message([](Args&) {}), "");
  EXPECT_EQ(message([&](Args& args) { args.q = in.q.view.slice(2, 0, 5); }),
            "expanded_attention: q: expected shape [2, 3, 6], found [2, 3, 5]");
  EXPECT_EQ(message([&](Args& args) { args.cache = in.cache.view.slice(2, 0, 8); }),
            "expanded_attention: cache: expected shape [2, 9, 9], found [2, 9, 8]");
  EXPECT_EQ(message([](Args& args) { args.selected = args.selected.slice(1, 0, 2); }),
            "expanded_attention: selected: expected shape [2, 3], found [2, 2]");
  EXPECT_EQ(message([](Args& args) { args.places = args.places.slice(0, 0, 1); }),
            "expanded_attention: places: expected shape [2], found [1]");
  EXPECT_EQ(message([&](Args& args) { args.out = out.view.slice(2, 0, 4); }),
            "expanded_attention: out: expected shape [2, 3, 5], found [2, 3, 4]");
  in.selection.lists[3] = 4;
  EXPECT_EQ(message([](Args&) {}), "expanded_attention: selected: expected a value in [0, 3], found 4");
}

TEST(expanded_attention, refuses_numerics_that_it_does_not_do) {
  const Numerics serving = Numerics::serving();
  for (const Implementation* const row : kBoth) {
    const auto reason = [&](auto Numerics::*knob, auto value) {
      Problem problem = problem_of(kAwkwardCases[0], kBlocks);
      problem.setting.numerics.*knob = value;
      return test::refusal(*row, problem);
    };
    EXPECT_EQ(reason(&Numerics::activation, serving.activation), "activation = bf16, takes fp32");
    EXPECT_EQ(reason(&Numerics::mla, Mla::kAbsorbed), "mla = absorbed, takes expanded");
    EXPECT_EQ(reason(&Numerics::latent_cache, serving.latent_cache), "latent_cache = fp8, takes fp32");
    EXPECT_EQ(reason(&Numerics::softmax_tile, serving.softmax_tile), "softmax_tile = 64, takes none");
    EXPECT_EQ(reason(&Numerics::softmax_p, serving.softmax_p), "softmax_p = bf16, takes fp32");
    EXPECT_EQ(reason(&Numerics::qk_operands, serving.qk_operands), "qk_operands = bf16, takes fp32");
    EXPECT_EQ(reason(&Numerics::mma, Mma::kHopper), "mma = hopper, takes exact");
  }
}

}  // namespace
}  // namespace fulgurite::expanded_attention
