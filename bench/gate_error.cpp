#include "bench/gate_error.h"

#include <algorithm>
#include <numeric>

#include "fulgurite/core/element.h"
#include "fulgurite/cpu/parallel_for.h"

namespace fulgurite::bench {
namespace {

constexpr int64_t kMostQueries = 64, kMostCandidates = 131072;
constexpr int64_t kTile = 256;  // candidates whose products are made together

// A query's choice of `topk` by its scores: ties to the lower position.
struct Choice {
  std::vector<int32_t> set;  // ascending
  int64_t tied = 0;
  bool decided_by_tie = false;
};

template <class Score>
Choice choose(std::span<const Score> scores, int64_t topk) {
  std::vector<int32_t> order(scores.size());
  std::iota(order.begin(), order.end(), 0);
  const auto score = [&](size_t i) { return scores[static_cast<size_t>(order[i])]; };
  std::ranges::sort(order, [&](int32_t a, int32_t b) {
    const Score of_a = scores[static_cast<size_t>(a)], of_b = scores[static_cast<size_t>(b)];
    return of_a != of_b ? of_a > of_b : a < b;
  });
  Choice choice;
  for (size_t i = 0; i < order.size(); ++i)
    choice.tied += (i > 0 && score(i) == score(i - 1)) || (i + 1 < order.size() && score(i) == score(i + 1));
  const auto cut = static_cast<size_t>(topk);
  choice.decided_by_tie = cut < order.size() && score(cut - 1) == score(cut);
  choice.set.assign(order.begin(), order.begin() + topk);
  std::ranges::sort(choice.set);
  return choice;
}

// x [queries, hidden] and the head weights [heads, hidden], with their products summed in double.
struct Operands {
  const char* what;
  Tensor<2> x;
  Weight weight;
  std::vector<double> sums;  // [queries, heads]
};

class Experiment {
 public:
  Experiment(const Request& request, const Lane& lane)
      : request_(request),
        s_(request.shape),
        lane_(lane),
        candidates_(longest_context(s_)),
        queries_(std::min(kMostQueries, candidates_ / 2)),
        topk_(std::min(s_.index_topk, candidates_ / 2)) {
    draw_choice();
  }

  GateErrors run() {
    GateErrors errors{queries_, candidates_, topk_, {}};
    for (const bool adversarial : {false, true}) {
      const Operands operands = draw_operands(adversarial);
      errors.inputs.push_back({operands.what, forms_of(operands)});
    }
    return errors;
  }

 private:
  static int64_t longest_context(const Shape& shape) {
    int64_t longest = shape.index_contexts.front();
    for (const int64_t context : shape.index_contexts)
      if (context <= kMostCandidates) longest = std::max(longest, context);
    return longest;
  }

  Setting setting(const char* numerics) const {
    return {request_.setting.target,
            parse_numerics(numerics).resolved(s_.activation_scale, IndexQuant::kFp8)};
  }

  // --- queries and keys ---

  indexer_prepare::Problem preparation(int64_t heads) const {
    return {setting("serving"), heads, s_.index_dim, s_.rope, s_.index_rope, 1, candidates_};
  }

  // Keys of all candidates, with a head that nobody reads.
  void draw_choice() {
    std::vector<TokenPlace> places;
    for (int64_t t = 0; t < candidates_; ++t) places.push_back({0, static_cast<int32_t>(t)});
    places_ = arena_.places(places);
    table_ = arena_.rotary_table(s_.frequencies, candidates_);
    norm_weight_ = arena_.vector(s_.index_dim, 0.5, 1.5);
    norm_bias_ = arena_.vector(s_.index_dim, -0.1, 0.1);
    keys_ = arena_.drawn<2>(DType::kBF16, {candidates_, s_.index_dim});
    query_ = arena_.drawn<3>(DType::kBF16, {queries_, s_.index_heads, s_.index_dim});
    cache_.keys = arena_.unwritten<3>(DType::kF8_E4M3, {1, candidates_, s_.index_dim});
    cache_.scales = arena_.unwritten<2>(DType::kF32, {1, candidates_}).as<float>();
    operand_ = arena_.unwritten<3>(DType::kF8_E4M3, query_.extent);
    const Tensor<3> nothing = arena_.drawn<3>(DType::kBF16, {candidates_, 1, s_.index_dim});
    prepare(nothing, 0, arena_.floats<2>({candidates_, 1}),
            arena_.unwritten<3>(DType::kF8_E4M3, nothing.extent), arena_.floats<2>({candidates_, 1}));
    // The weights of a gate of 1: what a gate in double is multiplied by.
    const View<float, 2> ones = arena_.floats<2>({queries_, s_.index_heads});
    std::fill_n(ones.data, ones.size(), 1.0f);
    factors_ = weights_of(ones);
  }

  void prepare(const Tensor<3>& query, int64_t first, const View<float, 2>& gate, const Tensor<3>& operand,
               const View<float, 2>& weights) {
    const int64_t count = candidates_ - first;
    run_row(request_.catalog->indexer_prepare, preparation(query.extent[1]),
            indexer_prepare::Args{query,
                                  keys_.slice(0, first, count),
                                  gate,
                                  norm_weight_,
                                  norm_bias_,
                                  places_.slice(0, first, count),
                                  table_,
                                  weights,
                                  cache_,
                                  operand,
                                  {},
                                  {}},
            lane_);
  }

  // The queries are the last tokens.
  View<float, 2> weights_of(const View<float, 2>& gate) {
    const View<float, 2> weights = arena_.floats<2>({queries_, s_.index_heads});
    prepare(query_, candidates_ - queries_, gate, operand_, weights);
    return weights;
  }

  // --- gates ---

  Operands draw_operands(bool adversarial) {
    Operands o{
        adversarial ? "adversarial" : "realistic", drawn_activations(arena_, queries_, s_.hidden), {}, {}};
    std::vector<double> values;
    const MatrixValues weight = drawn_values(values, arena_.random(), s_.index_heads, s_.hidden);
    const int64_t half = s_.hidden / 2;
    for (int64_t i = 0; adversarial && i < half; ++i) {
      if (i % 64 == 0) continue;
      for (int64_t t = 0; t < queries_; ++t) store(o.x, load(o.x, t, i), t, half + i);
      for (int64_t h = 0; h < s_.index_heads; ++h)
        values[static_cast<size_t>(h * s_.hidden + half + i)] =
            -values[static_cast<size_t>(h * s_.hidden + i)];
    }
    o.weight = made_weight(encode_bf16(weight), kBf16Matrix, s_.index_heads, s_.hidden);
    for (int64_t t = 0; t < queries_; ++t) {
      for (int64_t h = 0; h < s_.index_heads; ++h) {
        double sum = 0.0;
        for (int64_t i = 0; i < s_.hidden; ++i)
          sum += static_cast<double>(load(o.x, t, i)) * exact_element(o.weight.matrix, h, i);
        o.sums.push_back(sum);
      }
    }
    return o;
  }

  View<float, 2> gate_of(const Operands& operands, const char* numerics, std::string& implementation) {
    if (key_weight_.matrix.out == 0) {
      std::vector<double> values;
      key_weight_ = made_weight(encode_bf16(drawn_values(values, arena_.random(), s_.index_dim, s_.hidden)),
                                kBf16Matrix, s_.index_dim, s_.hidden);
    }
    const View<float, 2> gate = arena_.floats<2>({queries_, s_.index_heads});
    implementation =
        run_row(request_.catalog->indexer_projection,
                indexer_projection::Problem{setting(numerics), s_.hidden, s_.index_dim, s_.index_heads,
                                            kBf16Matrix, kBf16Matrix, queries_},
                indexer_projection::Args{operands.x, &key_weight_.matrix, &operands.weight.matrix,
                                         arena_.unwritten<2>(DType::kBF16, {queries_, s_.index_dim}), gate},
                lane_);
    return gate;
  }

  // --- choices ---

  int64_t visible(int64_t query) const { return candidates_ - queries_ + query + 1; }

  std::vector<Choice> choices_of(const View<float, 2>& gate) {
    const index_select::Problem problem{setting("serving"), s_.index_heads, s_.index_dim, topk_, 1,
                                        candidates_,        queries_};
    const View<float, 2> scores = arena_.floats<2>({queries_, candidates_});
    run_row(request_.catalog->index_select, problem,
            index_select::Args{operand_, weights_of(gate), cache_,
                               places_.slice(0, candidates_ - queries_, queries_),
                               arena_.unwritten<2>(DType::kI32, {queries_, topk_}).as<int32_t>(), scores},
            lane_);
    std::vector<Choice> choices;
    for (int64_t q = 0; q < queries_; ++q)
      choices.push_back(choose<float>({scores[q].data, static_cast<size_t>(visible(q))}, topk_));
    return choices;
  }

  // Scores in double, a tile of candidates after the other: [dim, kTile] of key codes beside one another, so that
  // the compiler's vectors are of candidates.
  std::vector<Choice> choices_in_double(const std::vector<double>& gates) {
    std::vector<double> scores(static_cast<size_t>(queries_ * candidates_));
    cpu::parallel_for(lane_, (candidates_ + kTile - 1) / kTile, [&](int64_t begin, int64_t end, int) {
      std::vector<double> keys(static_cast<size_t>(s_.index_dim * kTile)), dots(kTile);
      for (int64_t tile = begin; tile < end; ++tile) score_tile(gates, tile * kTile, keys, dots, scores);
    });
    std::vector<Choice> choices;
    for (int64_t q = 0; q < queries_; ++q)
      choices.push_back(choose<double>(
          std::span(scores).subspan(static_cast<size_t>(q * candidates_), static_cast<size_t>(visible(q))),
          topk_));
    return choices;
  }

  void score_tile(const std::vector<double>& gates, int64_t first, std::vector<double>& keys,
                  std::vector<double>& dots, std::vector<double>& scores) const {
    const int64_t count = std::min(kTile, candidates_ - first);
    const View<e4m3, 3> codes = cache_.keys.as<e4m3>();
    for (int64_t d = 0; d < s_.index_dim; ++d)
      for (int64_t k = 0; k < count; ++k)
        keys[static_cast<size_t>(d * kTile + k)] = to_float(codes(0, first + k, d));
    for (int64_t q = 0; q < queries_; ++q) {
      double* const to = scores.data() + q * candidates_ + first;
      for (int64_t h = 0; h < s_.index_heads; ++h) {
        const double weight = gates[static_cast<size_t>(q * s_.index_heads + h)] * factors_(q, h);
        dots_of(operand_.as<e4m3>()[q][h], keys, dots);
        for (int64_t k = 0; k < count; ++k) to[k] += weight * std::max(0.0, dots[static_cast<size_t>(k)]);
      }
      for (int64_t k = 0; k < count; ++k) to[k] *= cache_.scales(0, first + k);
    }
  }

  static void dots_of(const View<e4m3, 1>& query, const std::vector<double>& keys,
                      std::vector<double>& dots) {
    std::ranges::fill(dots, 0.0);
    for (int64_t d = 0; d < query.extent[0]; d += 4) {  // a power of two, so no rest
      double code[4];
      for (int64_t i = 0; i < 4; ++i) code[i] = to_float(query(d + i));
      const double* const row = keys.data() + d * kTile;
      for (int64_t k = 0; k < kTile; ++k)
        dots[static_cast<size_t>(k)] += code[0] * row[k] + code[1] * row[kTile + k] +
                                        code[2] * row[2 * kTile + k] + code[3] * row[3 * kTile + k];
    }
  }

  std::vector<GateForm> forms_of(const Operands& operands) {
    const std::vector<Choice> exact = choices_in_double(operands.sums);
    std::vector<GateForm> forms{form("double", "", {}, exact, exact)};
    const View<float, 2> rounded = arena_.floats<2>({queries_, s_.index_heads});
    std::ranges::transform(operands.sums, rounded.data, [](double sum) { return static_cast<float>(sum); });
    forms.push_back(
        form("double, rounded to fp32", "", deviation(rounded, operands.sums), choices_of(rounded), exact));
    for (const auto& [what, numerics] :
         {std::pair("fp32", "serving"), {"rounded to bf16", "serving,gate=bf16"}}) {
      std::string implementation;
      const View<float, 2> gate = gate_of(operands, numerics, implementation);
      forms.push_back(form(what, implementation, deviation(gate, operands.sums), choices_of(gate), exact));
    }
    return forms;
  }

  GateForm form(const char* what, const std::string& implementation, const Deviation& gate,
                const std::vector<Choice>& choices, const std::vector<Choice>& exact) const {
    GateForm form{what, implementation, gate};
    const auto queries = static_cast<double>(choices.size());
    for (size_t q = 0; q < choices.size(); ++q) {
      std::vector<int32_t> others;
      std::ranges::set_difference(choices[q].set, exact[q].set, std::back_inserter(others));
      form.sets += !others.empty();
      form.positions += static_cast<double>(others.size()) / queries;
      form.tied += static_cast<double>(choices[q].tied) / queries;
      form.decided_by_tie += choices[q].decided_by_tie;
    }
    return form;
  }

  const Request& request_;
  const Shape& s_;
  const Lane lane_;
  const int64_t candidates_, queries_, topk_;
  Arena arena_;
  Weight key_weight_;
  Tensor<2> keys_;
  Tensor<3> query_, operand_;
  IndexKeys cache_;
  View<float, 1> norm_weight_, norm_bias_;
  View<TokenPlace, 1> places_;
  rotary::Table table_;
  View<float, 2> factors_;
};

}  // namespace

GateErrors gate_errors(const Request& request, const Lane& lane) { return Experiment(request, lane).run(); }

}  // namespace fulgurite::bench
