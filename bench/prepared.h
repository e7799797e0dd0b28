#pragma once
// A Runnable of any operation: its operands, the row of the catalog, and parts of the case to be judged.

#include <algorithm>
#include <cstring>
#include <deque>
#include <span>

#include "bench/arena.h"
#include "bench/case.h"
#include "fulgurite/audit/report.h"
#include "fulgurite/core/error.h"

namespace fulgurite::bench {

// The same elements in a part's output and in the case's: they must have the same bits, as no result may
// depend on the number of tokens or threads.
struct Twin {
  std::string output;
  std::span<const std::byte> part;
  std::span<const std::byte> whole;
};

enum class Judged { kNo, kYes };  // kNo: only run, for its twins

template <class Problem, class Args>
struct Part {
  std::string name;  // "token 7"
  Problem problem;
  Args args;  // with outputs of its own
  std::vector<Twin> twins;
  Judged judged = Judged::kYes;
};

template <class Problem, class Args>
struct Operands {
  Arena arena;
  std::deque<PreparedMatrix> matrices;
  int64_t tokens = 0;
  Problem problem;
  Args args;
  Work work;
  std::vector<Part<Problem, Args>> parts;
  std::vector<std::span<std::byte>> outputs;  // of args: overwritten with rubbish before they are compared
  std::function<void()> restore = [] {};      // an input that the operation overwrites
  // What else must hold, once the parts have run.
  std::function<Failure(const Implementation<Problem, Args>&, const Lane&)> also;

  std::shared_ptr<void> held;  // what views point into besides the arena

  const PreparedMatrix* keep(PreparedMatrix matrix) { return &matrices.emplace_back(std::move(matrix)); }
};

template <class Problem, class Args>
using Judge = audit::OpReport (*)(const Implementation<Problem, Args>&, const Problem&, const Args&,
                                  const Lane&);

// The tokens that are also run alone: the first, one in the middle and the last, which is the judged one.
inline std::vector<int64_t> sample_tokens(int64_t tokens) {
  if (tokens == 0) return {};
  if (tokens == 1) return {0};
  if (tokens == 2) return {0, 1};
  return {0, tokens / 2, tokens - 1};
}

// Up to so many tokens are a batch that decodes, a sequence each, at the end of its context; more are the
// last tokens of one sequence.
inline constexpr int64_t kDecodeBatch = 16;
inline int64_t sequences_of(int64_t tokens) {
  return tokens <= kDecodeBatch ? std::max<int64_t>(tokens, 1) : 1;
}
inline TokenPlace place_of(int64_t token, int64_t tokens, int64_t context) {
  if (tokens <= kDecodeBatch) return {static_cast<int32_t>(token), static_cast<int32_t>(context - 1)};
  return {0, static_cast<int32_t>(context - tokens + token)};
}
inline View<TokenPlace, 1> places_of(Arena& arena, int64_t tokens, int64_t context) {
  std::vector<TokenPlace> places;
  for (int64_t token = 0; token < tokens; ++token) places.push_back(place_of(token, tokens, context));
  return arena.places(places);
}

// The bytes of the first `count` elements behind `tensor`'s first.
template <int Rank>
std::span<const std::byte> leading_bytes(const Tensor<Rank>& tensor, int64_t count) {
  return {tensor.data, static_cast<size_t>(count * tensor.element_bytes())};
}
template <int Rank>
std::span<std::byte> all_bytes(const Tensor<Rank>& contiguous) {
  return {contiguous.data, static_cast<size_t>(Arena::bytes_of(contiguous))};
}

template <class Problem, class Args>
class Prepared : public Runnable {
 public:
  using Row = Implementation<Problem, Args>;

  // Chooses as the planner does, or the row that the request names. Throws Error{kPlan}.
  Prepared(const Request& request, plan::Rows<Row> rows, Judge<Problem, Args> judge,
           std::unique_ptr<Operands<Problem, Args>> operands)
      : judge_(judge), operands_(std::move(operands)) {
    for (const Row* const row : rows) {
      if (!request.implementation.empty() && request.implementation != row->name) continue;
      const Support refusal = row->supports(operands_->problem);
      if (!refusal) {
        row_ = row;
        return;
      }
      refused_.push_back(std::string(row->name) + ": " + refusal->reason);
    }
    std::string reasons;
    for (const std::string& reason : refused_) reasons += (reasons.empty() ? "" : "; ") + reason;
    fail(ErrorKind::kPlan, "{}", reasons.empty() ? "has no such implementation" : "refused: " + reasons);
  }

  std::string implementation() const override { return row_->name; }
  std::vector<std::string> refused() const override { return refused_; }
  Work work() const override { return operands_->work; }

  int64_t workspace_bytes(int threads) const override {
    int64_t bytes = row_->workspace_bytes(operands_->problem, threads);
    for (const Part<Problem, Args>& part : operands_->parts)
      bytes = std::max(bytes, row_->workspace_bytes(part.problem, threads));
    return bytes;
  }

  Failure judge(const Lane& lane) override {
    for (const Part<Problem, Args>& part : operands_->parts) {
      if (const Support refusal = row_->supports(part.problem))
        return part.name + " alone: " + row_->name + " refuses it: " + refusal->reason;
      if (part.judged == Judged::kNo) {
        row_->run(part.problem, part.args, lane);
        continue;
      }
      const audit::OpReport report = judge_(*row_, part.problem, part.args, lane);
      if (report.outputs.empty()) return part.name + ": the audit compared nothing";
      if (!report.within()) return part.name + " against the reference: " + audit::describe(report);
    }
    return operands_->also ? operands_->also(*row_, lane) : Failure();
  }

  Failure compare(const Lane& lane) override {
    for (const std::span<std::byte> output : operands_->outputs)
      std::memset(output.data(), 0x5A, output.size());
    operands_->restore();
    run(lane);
    for (const Part<Problem, Args>& part : operands_->parts) {
      for (const Twin& twin : part.twins) {
        FULGURITE_ASSERT(twin.part.size() == twin.whole.size(), "{} and {} bytes", twin.part.size(),
                         twin.whole.size());
        if (std::memcmp(twin.part.data(), twin.whole.data(), twin.part.size()) != 0)
          return fmt::format("{} has other bits of {} alone than among {} tokens on {} thread(s)", part.name,
                             twin.output, operands_->tokens, lane.threads);
      }
    }
    return std::nullopt;
  }

  void run(const Lane& lane) override { row_->run(operands_->problem, operands_->args, lane); }

 private:
  const Row* row_ = nullptr;
  Judge<Problem, Args> judge_;
  std::unique_ptr<Operands<Problem, Args>> operands_;
  std::vector<std::string> refused_;
};

// As the constructor.
template <class Problem, class Args>
std::unique_ptr<Runnable> prepare(const Request& request, plan::Rows<Implementation<Problem, Args>> rows,
                                  Judge<Problem, Args> judge,
                                  std::unique_ptr<Operands<Problem, Args>> operands) {
  return std::make_unique<Prepared<Problem, Args>>(request, rows, judge, std::move(operands));
}

}  // namespace fulgurite::bench
