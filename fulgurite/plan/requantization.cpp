#include "fulgurite/plan/requantization.h"

#include <algorithm>

#include "fulgurite/core/requantized.h"

namespace fulgurite::plan {
namespace {

// A linear of the plan beside the weight that the checkpoint stores for it.
struct Linear {
  const LinearStep* step;
  const StoredMatrix* stored;
  model::Role role;
  int64_t layer;

  bool is_requantized() const { return requantizes(format_of(*stored), step->problem.weight); }
  int64_t bytes() const { return stored->out * stored->in; }
};

// The step that runs a weight: alone, or with another (joined.h).
const LinearStep& step_of(const std::optional<LinearStep>& joined, const LinearStep& alone) {
  return joined ? *joined : alone;
}

template <class Attention>
void add_query(const Attention& attention, const model::StoredLayer& w, int64_t layer,
               std::vector<Linear>& linears) {
  linears.push_back({&step_of(attention.qkv_a, attention.q_a), &w.q_a, model::Role::kQA, layer});
  linears.push_back({&attention.q_b, &w.q_b, model::Role::kQB, layer});
  if (attention.indexer)
    linears.push_back({&attention.indexer->q, &w.indexer.q, model::Role::kIndexQ, layer});
}

std::vector<Linear> linears_of(const model::Model& model, const Plan& plan) {
  std::vector<Linear> linears;
  for (size_t i = 0; i < plan.layers.size(); ++i) {
    const model::StoredLayer& w = model.weights.layers[i];
    const auto layer = static_cast<int64_t>(i);
    if (const auto& attention = plan.layers[i].attention) {
      add_query(*attention, w, layer, linears);
      linears.push_back({&step_of(attention->qkv_a, attention->kv_a), &w.kv_a, model::Role::kKvA, layer});
      linears.push_back({&attention->o, &w.o, model::Role::kO, layer});
    } else {
      const WindowAttentionPlan& window = *plan.layers[i].window;
      add_query(window, w, layer, linears);
      linears.push_back({&step_of(window.qkv_a, window.kv), &w.window->kv, model::Role::kWindowKv, layer});
      linears.push_back({&window.o_b, &w.window->o_b, model::Role::kOB, layer});
    }
  }
  linears.push_back({&plan.head, &model.weights.head, model::Role::kHead, model::kNoLayer});
  return linears;
}

std::string tensor_of(const model::Model& model, const Linear& linear) {
  const auto found = std::ranges::find_if(model.names, [&](const model::TensorName& name) {
    return name.role == linear.role && name.layer == linear.layer;
  });
  FULGURITE_ASSERT(found != model.names.end(), "no tensor is the {} of layer {}", name(linear.role),
                   linear.layer);
  return found->name;
}

// Where every scale is a power of two the codes need not be read: a block keeps both.
void measure(const StoredMatrix& stored, RequantizedWeight& weight) {
  const auto& blocks = std::get<BlockScaled>(stored.as);
  weight.blocks = blocks.scale.size();
  weight.kept_blocks = std::count_if(blocks.scale.data, blocks.scale.data + blocks.scale.size(),
                                     [](float scale) { return exact_e8m0(scale).has_value(); });
  if (weight.kept_blocks == weight.blocks) return;
  const Requantized made(stored);
  FULGURITE_ASSERT(made.kept_blocks() == weight.kept_blocks,
                   "{} blocks are kept, {} scales are powers of two", made.kept_blocks(), weight.kept_blocks);
  weight.error = made.error();
}

}  // namespace

bool requantizes(const MatrixFormat& stored, const MatrixFormat& read) {
  return has_scales(stored) && stored.scale == ScaleFormat::kF32 && read.scale == ScaleFormat::kE8M0;
}

std::vector<RequantizedWeight> measure_requantization(
    const model::Model& model, const Plan& plan,
    const std::function<void(int64_t done_bytes, int64_t total_bytes)>& progress) {
  std::vector<Linear> linears = linears_of(model, plan);
  std::erase_if(linears, [](const Linear& linear) { return !linear.is_requantized(); });
  int64_t total = 0, done = 0;
  for (const Linear& linear : linears) total += linear.bytes();
  std::vector<RequantizedWeight> weights;
  for (const Linear& linear : linears) {
    const Row& row = plan.rows[static_cast<size_t>(linear.step->choices.front().row)];
    RequantizedWeight& weight = weights.emplace_back();
    weight.layer = row.layer;
    weight.operation = row.operation;
    weight.implementation = row.implementation;
    weight.tensor = tensor_of(model, linear);
    weight.from = describe(format_of(*linear.stored));
    weight.to = describe(linear.step->problem.weight);
    measure(*linear.stored, weight);
    done += linear.bytes();
    if (progress) progress(done, total);
  }
  return weights;
}

}  // namespace fulgurite::plan
