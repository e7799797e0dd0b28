// The row of these kernels, over chunks of tokens.

#include <algorithm>
#include <memory>

#include "fulgurite/core/quantize.h"
#include "fulgurite/ops/experts/experts_cuda_kernels.h"
#include "fulgurite/ops/experts/experts_rules.h"

namespace fulgurite::experts {
namespace {

// --- matrices ---

// A matrix, if it lies as those before it do.
class Matrices {
 public:
  bool add(const PreparedMatrix& matrix, MatrixAt& at) {
    MatrixShape shape{static_cast<int>(matrix.out), static_cast<int>(matrix.in)};
    std::visit([&](const auto& m) { take(m, shape, at); }, matrix.as);
    const bool alike = shape_.rows == 0 ||
                       (shape.row_bytes == shape_.row_bytes && shape.scale_stride == shape_.scale_stride);
    shape_ = shape;
    return alike && cuda::is_aligned(at.data, 1, shape.row_bytes);
  }
  const MatrixShape& shape() const { return shape_; }

 private:
  static const std::byte* bytes(const auto& view) { return reinterpret_cast<const std::byte*>(view.data); }

  static void take(const View<const bf16, 2>& m, MatrixShape& shape, MatrixAt& at) {
    shape.row_bytes = m.stride[0] * 2;
    at = {bytes(m), nullptr};
  }
  static void take(const BlockScaled& m, MatrixShape& shape, MatrixAt& at) {
    shape.row_bytes = m.data.stride[0];
    shape.block_rows = static_cast<int>(std::min<int64_t>(m.block.rows, shape.rows));
    shape.scale_step = m.block.columns == kActivationGroup ? 1 : 0;
    shape.exponents = m.format == ScaleFormat::kE8M0;
    shape.scale_stride = shape.exponents ? m.exponents.stride[0] : m.scale.stride[0];
    at = {bytes(m.data), shape.exponents ? bytes(m.exponents) : bytes(m.scale)};
  }
  static void take(const Mxfp4& m, MatrixShape& shape, MatrixAt& at) {
    shape.row_bytes = m.data.stride[0];
    shape.exponents = true;
    shape.scale_stride = m.scale.stride[0];
    at = {bytes(m.data), bytes(m.scale)};
  }
  static void take(const auto&, MatrixShape&, MatrixAt&) {}  // supports() refuses the others

  MatrixShape shape_;
};

struct Tables {
  GateUpTable gate_up;
  DownTable down;
  MatrixShape gate_shape, down_shape;
};

// All of a part's matrices; none if they do not lie alike, or not at multiples of 16 bytes.
std::unique_ptr<Tables> tables_of(std::span<const Mlp> routed, const Mlp* shared) {
  auto tables = std::make_unique<Tables>();
  Matrices into, back;
  size_t e = 0;
  bool alike = true;
  const auto add = [&](const Mlp& mlp) {
    alike = alike && into.add(mlp.gate, tables->gate_up.gate[e]) && into.add(mlp.up, tables->gate_up.up[e]) &&
            back.add(mlp.down, tables->down.down[e]);
    ++e;
  };
  for (const Mlp& mlp : routed) add(mlp);
  if (shared != nullptr) add(*shared);
  tables->gate_shape = into.shape();
  tables->down_shape = back.shape();
  return alike ? std::move(tables) : nullptr;
}

// --- parts ---

ConstTensor<2> bf16_rows(uint16_t* data, int64_t rows, int64_t columns) {
  return View<const bf16, 2>(reinterpret_cast<const bf16*>(data), {rows, columns});
}

void apply(const Problem& problem, const Args& args, PartMemory& m, const Tables& tables, const Lane& lane) {
  const ScaleRounding rounding = activation_rounding(problem.setting.numerics);
  m.rows.expert_ids = args.expert_ids;
  m.rows.expert_weights = args.expert_weights;
  const Gating gating{limit_of(problem, Part::kRouted), limit_of(problem, Part::kShared),
                      problem.weight_before_down};
  launch_entries(m.rows, lane);
  launch_operand(args.x, m.weights, rounding, m.x, lane);
  launch_gate_up(m.weights, m.rows, tables.gate_shape, tables.gate_up, m.x, gating, m.hidden, lane);
  launch_operand(bf16_rows(m.hidden, m.rows.rows, m.width), m.weights, rounding, m.hidden_operand, lane);
  launch_down(m.weights, m.rows, tables.down_shape, tables.down, m.hidden_operand, m.y, lane);
}

// --- the row ---

void run_chunk(const Problem& problem, const Args& args, const Tables* routed, const Tables* shared,
               const Lane& lane) {
  cuda::Scratch scratch(lane);
  Memory memory = memory_of(problem, args.x.extent[0], scratch);
  PartMemory &of_routed = memory.routed, &of_shared = memory.shared;
  if (routed != nullptr) apply(problem, args, of_routed, *routed, lane);
  if (shared != nullptr) apply(problem, args, of_shared, *shared, lane);
  const uint16_t* const y_of_shared =
      is_one_part(problem) ? of_routed.y + of_routed.rows.routed * problem.hidden : of_shared.y;
  launch_combine({of_routed.y, y_of_shared, args.expert_weights, args.out, of_routed.rows.slots,
                  problem.weight_before_down},
                 lane);
}

}  // namespace

void run_hopper(const Problem& problem, const Args& args, const Lane& lane) {
  check(problem, args);
  const bool merged = is_one_part(problem), has_routed = problem.experts > 0,
             has_shared = args.shared != nullptr && !merged;
  const auto routed = has_routed ? tables_of(args.experts, merged ? args.shared : nullptr) : nullptr;
  const auto shared = has_shared ? tables_of({}, args.shared) : nullptr;
  cuda::require_aligned((!has_routed || routed != nullptr) && (!has_shared || shared != nullptr) &&
                            cuda::is_aligned(args.x.data, 2, args.x.stride[0]) &&
                            cuda::is_aligned(args.out.data, 2, args.out.stride[0]),
                        "experts");
  const int64_t tokens = args.x.extent[0];
  for (int64_t first = 0; first < tokens; first += kChunkTokens) {
    const int64_t count = std::min(kChunkTokens, tokens - first);
    run_chunk(problem, of_tokens(problem, args, first, count), routed.get(), shared.get(), lane);
  }
}

}  // namespace fulgurite::experts
