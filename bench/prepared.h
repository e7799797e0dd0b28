#pragma once
// A Runnable of any operation: its operands and the row of the catalog.

#include "bench/chosen.h"
#include "bench/operands.h"
#include "bench/placed.h"
#include "fulgurite/audit/report.h"
#include "fulgurite/audit/tensors.h"

namespace fulgurite::bench {

template <class Problem, class Args>
using Judge = audit::OpReport (*)(const Implementation<Problem, Args>&, const Problem&, const Args&,
                                  const Lane&);

template <class Problem, class Args>
class Prepared : public Runnable {
 public:
  using Row = Implementation<Problem, Args>;

  // The operands are those of the choice's problem.
  Prepared(const Request& request, const Chosen<Problem, Args>& choice, Judge<Problem, Args> judge,
           std::unique_ptr<Operands<Problem, Args>> operands)
      : row_(choice.row), judge_(judge), operands_(std::move(operands)), refused_(choice.refused) {
    choose_arithmetic(request);
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
      if (part.judged == Judged::kInPlace) continue;
      if (Failure failure = refused_alone(part)) return failure;
      if (part.judged == Judged::kNo) {
        row_->run(part.problem, part.args, lane);
        continue;
      }
      if (Failure failure = judged(*row_, part, part.args, lane)) return failure;
    }
    return operands_->also ? operands_->also(*row_, lane) : Failure();
  }

  Failure compare(const Lane& lane) override {
    spoil_outputs();
    run(lane);
    return wrong_whole(lane);
  }

  void run(const Lane& lane) override { row_->run(operands_->problem, operands_->args, lane); }

  Failure judge_on(const Accelerator& gpu, const Lane& lane) override {
    for (const Part<Problem, Args>& part : operands_->parts)
      if (Failure failure = judge_part_on(gpu, lane, part)) return failure;
    if (operands_->also)
      if (Failure failure = operands_->also(*row_, lane)) return failure;
    spoil_outputs();
    run_on(gpu, lane, operands_->problem, operands_->args);
    return wrong_whole(lane);
  }

  std::unique_ptr<Turns> turns(const Accelerator& gpu, void* stream, int64_t wanted,
                               int64_t most) const override {
    return std::make_unique<PlacedTurns>(*this, gpu, stream, wanted, most);
  }

 private:
  using Here = Placed<Args>;

  class PlacedTurns : public Turns {
   public:
    PlacedTurns(const Prepared& of, const Accelerator& gpu, void* stream, int64_t wanted, int64_t most)
        : of_(of) {
      constexpr int64_t kMostTurns = 512;
      const Operands<Problem, Args>& o = *of.operands_;
      placed_.push_back(std::make_unique<Here>(o.arena, o.args, *gpu.own, stream));
      const int64_t moved = std::max<int64_t>(o.work.bytes, 1), each = placed_.front()->copies().bytes();
      const int64_t count = std::min({(wanted + moved - 1) / moved, most / each, kMostTurns});
      while (this->count() < count) placed_.push_back(std::make_unique<Here>(*placed_.front(), stream));
    }
    int64_t count() const override { return static_cast<int64_t>(placed_.size()); }
    void run(int64_t turn, const Lane& lane) const override {
      of_.row_->run(of_.operands_->problem, placed_[static_cast<size_t>(turn)]->args(), lane);
    }

   private:
    const Prepared& of_;
    std::vector<std::unique_ptr<Here>> placed_;
  };

  // A CPU's is its row's; of a GPU, the fastest that the operands allow: codes where the case says so.
  void choose_arithmetic(const Request& request) {
    Arithmetic& arithmetic = operands_->work.arithmetic;
    if (row_->device == DeviceKind::kCpu)
      arithmetic = arithmetic_of(row_->name);
    else if (arithmetic != Arithmetic::kCodes && request.activation() != DType::kF32)
      arithmetic = Arithmetic::kPairs;
  }

  // A row that states a problem has taken the one that was asked.
  Failure refused_alone(const Part<Problem, Args>& part) const {
    const Support refusal = row_->states == nullptr ? row_->supports(part.problem) : std::nullopt;
    if (!refusal) return std::nullopt;
    return part.name + " alone: " + row_->name + " refuses it: " + refusal->reason;
  }

  Failure judge_part_on(const Accelerator& gpu, const Lane& lane, const Part<Problem, Args>& part) {
    if (part.judged == Judged::kInPlace) return std::nullopt;
    if (Failure failure = refused_alone(part)) return failure;
    if (part.judged == Judged::kYes) {
      const audit::TensorMemory tensors(*gpu.shared);
      const Here shared(operands_->arena, part.args, *gpu.shared, lane.stream);
      if (Failure failure = judged(*row_, part, shared.args(), lane)) return failure;
      shared.copies().read_back(lane.stream);
      return std::nullopt;
    }
    run_on(gpu, lane, part.problem, part.args);
    return std::nullopt;
  }

  Failure judged(const Row& row, const Part<Problem, Args>& part, const Args& args, const Lane& lane) const {
    const audit::OpReport report = judge_(row, part.problem, args, lane);
    if (report.outputs.empty()) return part.name + ": the audit compared nothing";
    if (!report.within()) return part.name + " against the reference: " + audit::describe(report);
    return std::nullopt;
  }

  // What the whole case has left in the arena.
  Failure wrong_whole(const Lane& lane) const {
    if (Failure failure = other_bits(lane)) return failure;
    Row has_run = *row_;
    has_run.run = [](const Problem&, const Args&, const Lane&) {};
    for (const Part<Problem, Args>& part : operands_->parts)
      if (part.judged == Judged::kInPlace)
        if (Failure failure = judged(has_run, part, part.args, {})) return failure;
    return std::nullopt;
  }

  // In the GPU's own memory; what it writes comes back into the arena.
  void run_on(const Accelerator& gpu, const Lane& lane, const Problem& problem, const Args& args) {
    const Here own(operands_->arena, args, *gpu.own, lane.stream);
    row_->run(problem, own.args(), lane);
    gpu.wait(lane.stream);
    own.copies().read_back(lane.stream);
  }

  void spoil_outputs() {
    for (const std::span<std::byte> output : operands_->outputs)
      std::memset(output.data(), 0x5A, output.size());
    operands_->restore();
  }

  Failure other_bits(const Lane& lane) const {
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

  const Row* row_ = nullptr;
  Judge<Problem, Args> judge_;
  std::unique_ptr<Operands<Problem, Args>> operands_;
  std::vector<std::string> refused_;
};

template <class Problem, class Args>
std::unique_ptr<Runnable> prepare(const Request& request, const Chosen<Problem, Args>& choice,
                                  Judge<Problem, Args> judge,
                                  std::unique_ptr<Operands<Problem, Args>> operands) {
  return std::make_unique<Prepared<Problem, Args>>(request, choice, judge, std::move(operands));
}

// Of an operation whose rows solve the problem as it is asked.
template <class Problem, class Args>
std::unique_ptr<Runnable> prepare(const Request& request, plan::Rows<Implementation<Problem, Args>> rows,
                                  Judge<Problem, Args> judge,
                                  std::unique_ptr<Operands<Problem, Args>> operands) {
  const Chosen<Problem, Args> choice = choose(request, rows, operands->problem);
  FULGURITE_ASSERT(choice.row->states == nullptr, "{} states a problem of its own", choice.row->name);
  return prepare(request, choice, judge, std::move(operands));
}

}  // namespace fulgurite::bench
