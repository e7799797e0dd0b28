#pragma once
// A case: an operation at given dimensions and tokens. It is made (operands and all), judged against the
// reference, and only then timed.

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "bench/limits.h"
#include "bench/shape.h"
#include "fulgurite/core/check.h"
#include "fulgurite/plan/catalog.h"

namespace fulgurite::bench {

// What the contract makes any implementation do: bytes to move when every operand is read once and every
// output written once, and the operations of its sums (a multiply-add is two).
struct Work {
  int64_t bytes = 0;
  int64_t flops = 0;
  Arithmetic arithmetic = Arithmetic::kFp32;  // of the row that runs it
};

// What a CPU's row of the catalog multiplies, which its name says: cpu_pairs, cpu_bf16 and cpu_fp8 pairs of bf16 (a
// code is one), cpu and reference fp32, whatever the activations are.
Arithmetic arithmetic_of(std::string_view implementation);

using Failure = std::optional<std::string>;  // nullopt: right

// The operands of a case in a GPU's memory, several times over: calls take turns, so that each finds its own cold.
class Turns {
 public:
  virtual ~Turns() = default;
  virtual int64_t count() const = 0;
  virtual void run(int64_t turn, const Lane& lane) const = 0;  // turn in [0, count)
};

// An operation with its operands and the catalog row that runs it.
class Runnable {
 public:
  virtual ~Runnable() = default;
  virtual std::string implementation() const = 0;
  virtual std::vector<std::string> refused() const = 0;  // rows before it, with their reasons
  virtual Work work() const = 0;
  virtual int64_t workspace_bytes(int threads) const = 0;

  // The parts of the case that the reference can do in reasonable time, against it.
  virtual Failure judge(const Lane& lane) = 0;
  // After judge(): the whole case, bit for bit against tokens that were run alone.
  virtual Failure compare(const Lane& lane) = 0;
  virtual void run(const Lane& lane) = 0;

  // On a GPU, in the place of those three. judge_on(): all that judge() and compare() say, the judged parts in
  // memory that the host reads too, everything else in the GPU's own.
  virtual Failure judge_on(const Accelerator& gpu, const Lane& lane) = 0;
  // Copies that together are `wanted` bytes of what a call moves, as far as `most` bytes hold them.
  virtual std::unique_ptr<Turns> turns(const Accelerator& gpu, void* stream, int64_t wanted,
                                       int64_t most) const = 0;
};

struct Case {
  std::string operation;  // "linear", and the user may ask for "linear.q_b"
  std::string name;       // "q_b"; empty where an operation has one alone
  std::string detail;     // "24576x1536 e4m3"
  int64_t tokens = 0;
  int64_t memory_bytes = 0;  // of its operands
  std::function<std::unique_ptr<Runnable>()> make;
  int64_t steps = 0;  // of a GPU's generic row, besides its sums

  std::string title() const { return name.empty() ? operation : operation + "." + name; }
};

// What cases are made for.
struct Request {
  Shape shape;
  Setting setting;  // activation_scale resolved
  const plan::Catalog* catalog = nullptr;
  std::string implementation;   // "": as the planner chooses
  std::vector<int64_t> tokens;  // empty: what makes sense for each operation

  DType activation() const { return activation_type(setting.numerics); }
  int64_t activation_bytes() const { return bits(activation()) / 8; }
  std::vector<int64_t> tokens_or(std::vector<int64_t> usual) const { return tokens.empty() ? usual : tokens; }
};

// The cases of each group of operations, appended.
void add_linears(const Request& request, std::vector<Case>& cases);  // linear, head_projection
void add_indexer(const Request& request,
                 std::vector<Case>& cases);  // indexer_projection, _prepare, index_select
void add_compressor(const Request& request, std::vector<Case>& cases);
void add_attention(const Request& request, std::vector<Case>& cases);  // latent_prepare, sparse and expanded
void add_compressed_attention(const Request& request, std::vector<Case>& cases);
void add_feed_forward(const Request& request, std::vector<Case>& cases);  // router, experts
void add_small_steps(const Request& request, std::vector<Case>& cases);   // embedding, norm, rotary
void add_streams(const Request& request,
                 std::vector<Case>& cases);  // DeepSeek-V4: hyper_connection, query_prepare, kv_prepare

// All of them, or those that the operations name ("linear", "linear.q_b"). The request lives as long as they.
// Throws Error{kRequest} for a name that is no case's, or not of this request, and for an implementation that
// one of the operations does not have.
std::vector<Case> cases_of(const Request& request, const std::vector<std::string>& operations);

}  // namespace fulgurite::bench
