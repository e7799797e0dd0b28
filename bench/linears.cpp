// Cases of linear (every one of a layer, and the head) and of head_projection (W_UK, W_UV).

#include "bench/prepared.h"
#include "fulgurite/ops/head_projection/head_projection_audit.h"
#include "fulgurite/ops/linear/linear_audit.h"

namespace fulgurite::bench {
namespace {

// Multiplications that the reference does in well under a second.
constexpr int64_t kJudgedProducts = int64_t{1} << 25;

struct Linear {
  const char* name;
  int64_t out, in;
  MatrixFormat weight;
  linear::Output output = linear::Output::kActivation;
};

// A token alone on some of the weight's rows: the first ones, or for the judged token the last ones.
Part<linear::Problem, linear::Args> linear_part(Operands<linear::Problem, linear::Args>& o, int64_t token) {
  const int64_t in = o.problem.in, out = o.problem.out;
  const bool judged = token == o.tokens - 1;
  const int64_t most = std::min(out, std::max<int64_t>(128, kJudgedProducts / in / 128 * 128));
  const int64_t first = judged ? (out - most) / 128 * 128 : 0, rows = judged ? out - first : most;
  Part<linear::Problem, linear::Args> part;
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

std::unique_ptr<Runnable> make_linear(const Request& request, const Linear& c, int64_t tokens) {
  auto o = std::make_unique<Operands<linear::Problem, linear::Args>>();
  o->tokens = tokens;
  o->problem = {request.setting, c.in, c.out, c.weight, c.output, tokens};
  const DType y_type = c.output == linear::Output::kF32 ? DType::kF32 : request.activation();
  o->args.x = o->arena.drawn<2>(request.activation(), {tokens, c.in});
  o->args.weight = o->keep(o->arena.matrix(c.out, c.in, c.weight));
  o->args.y = o->arena.unwritten<2>(y_type, {tokens, c.out});
  o->outputs = {all_bytes(o->args.y)};
  o->work = {matrix_bytes(c.out, c.in, c.weight) +
                 tokens * (c.in * request.activation_bytes() + c.out * bits(y_type) / 8),
             2 * tokens * c.in * c.out, request.products()};
  for (const int64_t token : sample_tokens(tokens)) o->parts.push_back(linear_part(*o, token));
  return prepare(request, request.catalog->linear, &linear::judge, std::move(o));
}

struct HeadProjection {
  const char* name;
  head_projection::Direction direction;
  int64_t first_row, rows;
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
  const Shape& s = request.shape;
  auto o = std::make_unique<Operands<head_projection::Problem, head_projection::Args>>();
  o->tokens = tokens;
  o->problem = {request.setting, c.direction, s.heads, s.nope + s.value, c.first_row, c.rows,
                s.kv_lora,       kFp8Matrix,  tokens};
  const bool from_rows = c.direction == head_projection::Direction::kFromRows;
  const DType type = request.activation();
  // The query's heads stand in rows that also hold their rotated part.
  const Tensor<3> x = o->arena.drawn<3>(type, {tokens, s.heads, from_rows ? c.rows + s.rope : s.kv_lora});
  o->args.x = from_rows ? x.slice(2, 0, c.rows) : x;
  o->args.weight = o->keep(o->arena.matrix(s.heads * (s.nope + s.value), s.kv_lora, kFp8Matrix));
  o->args.y = o->arena.unwritten<3>(type, {tokens, s.heads, from_rows ? s.kv_lora : c.rows});
  o->outputs = {all_bytes(o->args.y)};
  o->work = {matrix_bytes(s.heads * c.rows, s.kv_lora, kFp8Matrix) +
                 tokens * s.heads * (c.rows + s.kv_lora) * request.activation_bytes(),
             2 * tokens * s.heads * c.rows * s.kv_lora, request.products()};
  for (const int64_t token : sample_tokens(tokens)) o->parts.push_back(head_projection_part(*o, token));
  return prepare(request, request.catalog->head_projection, &head_projection::judge, std::move(o));
}

std::string detail_of(int64_t out, int64_t in, const MatrixFormat& format) {
  return fmt::format("{}x{} {}", out, in, format.form == MatrixForm::kBF16 ? "bf16" : "e4m3");
}

}  // namespace

void add_linears(const Request& request, std::vector<Case>& cases) {
  const Shape& s = request.shape;
  const Linear linears[] = {{"q_a", s.q_lora, s.hidden, kFp8Matrix},
                            {"q_b", s.heads * (s.nope + s.rope), s.q_lora, kFp8Matrix},
                            {"kv_a", s.kv_lora + s.rope, s.hidden, kFp8Matrix},
                            {"o", s.hidden, s.heads * s.value, kFp8Matrix},
                            {"index_q", s.index_heads * s.index_dim, s.q_lora, kFp8Matrix},
                            {"head", s.vocabulary, s.hidden, kBf16Matrix, linear::Output::kF32}};
  for (const Linear& c : linears) {
    // A prefill asks for the logits of few tokens.
    const bool head = c.output == linear::Output::kF32;
    for (const int64_t tokens :
         request.tokens_or(head ? std::vector<int64_t>{1, 8} : std::vector<int64_t>{1, 8, 512})) {
      const int64_t memory = matrix_bytes(c.out, c.in, c.weight) + tokens * (c.in + c.out) * 4;
      cases.push_back({"linear", c.name, detail_of(c.out, c.in, c.weight), tokens, memory,
                       [=, &request] { return make_linear(request, c, tokens); }});
    }
  }
  if (request.setting.numerics.mla != Mla::kAbsorbed) return;  // a plan has no head_projection then
  const HeadProjection projections[] = {{"w_uk", head_projection::Direction::kFromRows, 0, s.nope},
                                        {"w_uv", head_projection::Direction::kToRows, s.nope, s.value}};
  for (const HeadProjection& c : projections) {
    for (const int64_t tokens : request.tokens_or({1, 8, 512})) {
      const int64_t memory = matrix_bytes(s.heads * (s.nope + s.value), s.kv_lora, kFp8Matrix) +
                             tokens * s.heads * (c.rows + s.rope + 2 * s.kv_lora) * 4;
      const std::string detail =
          fmt::format("{} heads of {}", s.heads, detail_of(c.rows, s.kv_lora, kFp8Matrix));
      cases.push_back({"head_projection", c.name, detail, tokens, memory,
                       [=, &request] { return make_head_projection(request, c, tokens); }});
    }
  }
}

}  // namespace fulgurite::bench
