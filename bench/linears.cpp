// Cases of linear (every one of a layer, and the head) and of head_projection (W_UK, W_UV).

#include "bench/prepared.h"
#include "fulgurite/ops/head_projection/head_projection_audit.h"
#include "fulgurite/ops/linear/linear_audit.h"

namespace fulgurite::bench {
namespace {

struct Linear {
  const char* name;
  int64_t out, in;
  MatrixFormat weight;
  linear::Output output = linear::Output::kActivation;
};

using LinearOperands = Operands<linear::Problem, linear::Args>;
using LinearPart = Part<linear::Problem, linear::Args>;

// Rows of the weight that the reference can do.
int64_t judged_rows(const linear::Problem& problem) {
  return std::min(problem.out, std::max<int64_t>(128, kJudgedProducts / problem.in / 128 * 128));
}

// A token alone on some of the weight's rows: the first ones, or for the judged token the last ones.
LinearPart linear_part(LinearOperands& o, int64_t token) {
  const int64_t out = o.problem.out, most = judged_rows(o.problem);
  const bool judged = token == o.tokens - 1;
  const int64_t first = judged ? (out - most) / 128 * 128 : 0, rows = judged ? out - first : most;
  LinearPart part;
  part.name = fmt::format("token {}, rows {}..{}", token, first, first + rows - 1);
  part.problem = o.problem;
  part.problem.out = rows;
  part.problem.largest_batch = 1;
  const Tensor<2> y = o.arena.unwritten<2>(o.args.y.dtype, {1, rows});
  part.args = {o.args.x.slice(0, token, 1), o.keep(rows_of(*o.args.weight, first, rows)), y};
  part.twins = {{"y", leading_bytes(y, rows), leading_bytes(o.args.y[token].slice(0, first, rows), rows)}};
  part.judged = judged ? Judged::kYes : Judged::kNo;
  return part;
}

// A token alone on the whole weight, for its bits.
LinearPart linear_alone(LinearOperands& o, int64_t token) {
  LinearPart part;
  part.name = fmt::format("token {}", token);
  part.problem = o.problem;
  part.problem.largest_batch = 1;
  const Tensor<2> y = o.arena.unwritten<2>(o.args.y.dtype, {1, o.problem.out});
  part.args = {o.args.x.slice(0, token, 1), o.args.weight, y};
  part.twins = {{"y", leading_bytes(y, o.problem.out), leading_bytes(o.args.y[token], o.problem.out)}};
  part.judged = Judged::kNo;
  return part;
}

// The last rows of the last token, where they stand in the case.
LinearPart linear_in_place(LinearOperands& o) {
  const int64_t token = o.tokens - 1, out = o.problem.out;
  const int64_t first = (out - judged_rows(o.problem)) / 128 * 128;
  LinearPart part;
  part.name = fmt::format("token {} of {}, rows {}..{}", token, o.tokens, first, out - 1);
  part.problem = o.problem;
  part.problem.out = out - first;
  part.args = {o.args.x.slice(0, token, 1), o.keep(rows_of(*o.args.weight, first, out - first)),
               o.args.y.slice(0, token, 1).slice(1, first, out - first)};
  part.judged = Judged::kInPlace;
  return part;
}

// The order of a row of Hopper's sums follows from all of the weight's rows.
void add_linear_parts(LinearOperands& o) {
  const bool of_all_rows = o.problem.setting.numerics.mma == Mma::kHopper;
  for (const int64_t token : sample_tokens(o.tokens))
    o.parts.push_back(of_all_rows ? linear_alone(o, token) : linear_part(o, token));
  if (of_all_rows && o.tokens > 0) o.parts.push_back(linear_in_place(o));
}

std::unique_ptr<Runnable> make_linear(const Request& request, const Linear& c, int64_t tokens) {
  auto o = std::make_unique<LinearOperands>();
  o->tokens = tokens;
  const linear::Problem asked{request.setting, c.in, c.out, c.weight, c.output, tokens};
  const auto choice = choose(request, request.catalog->linear, asked);
  o->problem = choice.problem;
  const DType y_type = c.output == linear::Output::kF32 ? DType::kF32 : request.activation();
  o->args.x = o->arena.drawn<2>(request.activation(), {tokens, c.in});
  o->args.weight = o->keep(o->arena.matrix(c.out, c.in, c.weight));
  o->args.y = o->arena.unwritten<2>(y_type, {tokens, c.out});
  o->outputs = {all_bytes(o->args.y)};
  o->work = {matrix_bytes(c.out, c.in, c.weight) +
                 tokens * (c.in * request.activation_bytes() + c.out * bits(y_type) / 8),
             2 * tokens * c.in * c.out,
             linear::quantizes(o->problem) ? Arithmetic::kCodes : Arithmetic::kFp32};
  add_linear_parts(*o);
  return prepare(request, choice, &linear::judge, std::move(o));
}

// Matrices of a head (or a group of them): rows [first_row, + rows) of each rows_per_head.
struct HeadProjection {
  const char* name;
  head_projection::Direction direction;
  int64_t heads, rows_per_head, first_row, rows, latent;

  bool from_rows() const { return direction == head_projection::Direction::kFromRows; }
};

// The whole of one token.
Part<head_projection::Problem, head_projection::Args> head_projection_part(
    Operands<head_projection::Problem, head_projection::Args>& o, int64_t token) {
  Part<head_projection::Problem, head_projection::Args> part;
  part.name = fmt::format("token {}", token);
  part.problem = o.problem;
  part.problem.largest_batch = 1;
  const auto [tokens, heads, width] = o.args.y.extent;
  const Tensor<3> y = o.arena.unwritten<3>(o.args.y.dtype, {1, heads, width});
  part.args = {o.args.x.slice(0, token, 1), o.args.weight, y};
  part.twins = {{"y", leading_bytes(y, heads * width), leading_bytes(o.args.y[token], heads * width)}};
  part.judged = token == tokens - 1 ? Judged::kYes : Judged::kNo;
  return part;
}

std::unique_ptr<Runnable> make_head_projection(const Request& request, const HeadProjection& c,
                                               int64_t tokens) {
  const MatrixFormat stored = fp8_matrix(request.shape);
  auto o = std::make_unique<Operands<head_projection::Problem, head_projection::Args>>();
  o->tokens = tokens;
  const head_projection::Problem asked{request.setting, c.direction, c.heads, c.rows_per_head, c.first_row,
                                       c.rows,          c.latent,    stored,  tokens};
  const auto choice = choose(request, request.catalog->head_projection, asked);
  o->problem = choice.problem;
  const MatrixFormat& format = choice.problem.weight;
  const DType type = request.activation();
  // The query's heads stand in rows that also hold their rotated part.
  const int64_t width = c.from_rows() ? c.rows + request.shape.rope : c.latent;
  const Tensor<3> x = o->arena.drawn<3>(type, {tokens, c.heads, width});
  o->args.x = c.from_rows() ? x.slice(2, 0, c.rows) : x;
  o->args.weight = o->keep(o->arena.matrix(c.heads * c.rows_per_head, c.latent, stored, format));
  o->args.y = o->arena.unwritten<3>(type, {tokens, c.heads, c.from_rows() ? c.latent : c.rows});
  o->outputs = {all_bytes(o->args.y)};
  o->work = {matrix_bytes(c.heads * c.rows, c.latent, format) +
                 tokens * c.heads * (c.rows + c.latent) * request.activation_bytes(),
             2 * tokens * c.heads * c.rows * c.latent};
  for (const int64_t token : sample_tokens(tokens)) o->parts.push_back(head_projection_part(*o, token));
  return prepare(request, choice, &head_projection::judge, std::move(o));
}

std::string detail_of(int64_t out, int64_t in, const MatrixFormat& format) {
  return fmt::format("{}x{} {}", out, in, format.form == MatrixForm::kBF16 ? "bf16" : "e4m3");
}

std::vector<Linear> linears_of(const Shape& s) {
  const MatrixFormat fp8 = fp8_matrix(s);
  const Linear q_a{"q_a", s.q_lora, s.hidden, fp8};
  const Linear q_b{"q_b", s.heads * (s.nope + s.rope), s.q_lora, fp8};
  const Linear index_q{"index_q", s.index_heads * s.index_dim, s.q_lora, fp8};
  const Linear head{"head", s.vocabulary, s.hidden, kBf16Matrix, linear::Output::kF32};
  const int64_t kv = s.kv == 0 ? s.kv_lora + s.rope : s.kv;
  const Linear qkv_a{"qkv_a", s.q_lora + kv, s.hidden,
                     fp8};  // both in one product, as plans of Hopper have it
  if (s.kv == 0)
    return {q_a,     q_b, {"kv_a", kv, s.hidden, fp8}, qkv_a, {"o", s.hidden, s.heads * s.value, fp8},
            index_q, head};
  return {q_a,
          q_b,
          {"kv", kv, s.hidden, fp8},
          qkv_a,
          {"o_b", s.hidden, s.o_groups * s.o_lora, fp8},
          index_q,
          {"index_gate", s.index_heads, s.hidden, kBf16Matrix, linear::Output::kF32},
          head};
}

std::vector<HeadProjection> head_projections_of(const Request& request) {
  using enum head_projection::Direction;
  const Shape& s = request.shape;
  if (s.kv != 0) return {{"o_a", kToRows, s.o_groups, s.o_lora, 0, s.o_lora, s.heads * s.kv / s.o_groups}};
  if (request.setting.numerics.mla != Mla::kAbsorbed) return {};  // a plan has none then
  return {{"w_uk", kFromRows, s.heads, s.nope + s.value, 0, s.nope, s.kv_lora},
          {"w_uv", kToRows, s.heads, s.nope + s.value, s.nope, s.value, s.kv_lora}};
}

}  // namespace

void add_linears(const Request& request, std::vector<Case>& cases) {
  for (const Linear& c : linears_of(request.shape)) {
    // A prefill asks for the logits of few tokens.
    const bool head = c.out == request.shape.vocabulary;
    for (const int64_t tokens :
         request.tokens_or(head ? std::vector<int64_t>{1, 8} : std::vector<int64_t>{1, 8, 512})) {
      const int64_t memory = matrix_bytes(c.out, c.in, c.weight) + tokens * (c.in + c.out) * 4;
      cases.push_back({"linear", c.name, detail_of(c.out, c.in, c.weight), tokens, memory,
                       [=, &request] { return make_linear(request, c, tokens); }});
    }
  }
  const MatrixFormat format = fp8_matrix(request.shape);
  for (const HeadProjection& c : head_projections_of(request)) {
    for (const int64_t tokens : request.tokens_or({1, 8, 512})) {
      const int64_t memory = matrix_bytes(c.heads * c.rows_per_head, c.latent, format) +
                             tokens * c.heads * (c.rows + request.shape.rope + 2 * c.latent) * 4;
      const std::string detail = fmt::format("{} heads of {}", c.heads, detail_of(c.rows, c.latent, format));
      cases.push_back({"head_projection", c.name, detail, tokens, memory,
                       [=, &request] { return make_head_projection(request, c, tokens); }});
    }
  }
}

}  // namespace fulgurite::bench
