#pragma once
// Plan + tokens -> logits. A session owns the prepared weights, the caches of its sequences and every buffer;
// forward decides nothing and, but for references, allocates nothing. The model (and the checkpoint that it
// views) must outlive it, or the update that puts another in its place.

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "fulgurite/execute/activations.h"
#include "fulgurite/execute/page_table.h"
#include "fulgurite/execute/recording.h"
#include "fulgurite/execute/sampler.h"
#include "fulgurite/execute/tap.h"
#include "fulgurite/plan/counts.h"
#include "fulgurite/plan/device_weights.h"
#include "fulgurite/plan/prepare.h"

namespace fulgurite::execute {

// The next tokens of one sequence: they take the positions that follow what the sequence holds.
struct Chunk {
  int32_t sequence = 0;
  std::span<const int32_t> ids;
};

// A GPU's queue of work, closed at the end of its life; of a CPU nothing.
class Stream {
 public:
  explicit Stream(const Accelerator* accelerator)
      : accelerator_(accelerator), stream_(accelerator == nullptr ? nullptr : accelerator->open_stream()) {}
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;
  ~Stream() {
    if (accelerator_ != nullptr) accelerator_->close_stream(stream_);
  }
  void* get() const { return stream_; }

 private:
  const Accelerator* accelerator_;
  void* stream_;
};

class Session {
 public:
  // Throws Error{kPlan} if this build has no kernel for a row, and Error{kMemory} if the plan does not fit,
  // before anything is allocated.
  Session(const model::Model& model, plan::Plan plan);

  // Logits, f32 [rows, vocabulary], valid until the next call: a row a chunk (its last token) or, with
  // LogitRows::kAll, a row a token, in the order given. A sequence may stand in one chunk only. Throws
  // Error{kRequest}, and changes nothing, for ids outside the vocabulary, empty chunks, a full context, too
  // few free pages or more tokens than planned. A pass that throws on its way (a tap, a conductor, a device)
  // resets its sequences. A conductor carries out every call of the pass in the place of its step.
  View<const float, 2> forward(std::span<const Chunk> chunks, Tap* tap = nullptr,
                               plan::Conductor* conductor = nullptr);
  View<const float, 2> forward(int32_t sequence, std::span<const int32_t> ids, Tap* tap = nullptr,
                               plan::Conductor* conductor = nullptr);

  // The next token of each chunk: samplers[i]->next() of the logits of its last token, the same as of those that forward gives; -1 where
  // there is no sampler. A GPU's logits stay there: the host reads the largest, and a row where those do not settle a
  // draw. Valid until the next call. Throws as forward, and Error{kRequest} where the plan has LogitRows::kAll; what a sampler throws
  // leaves the pass done.
  std::span<const int32_t> next_tokens(std::span<const Chunk> chunks, std::span<Sampler* const> samplers);
  int32_t next_token(int32_t sequence, std::span<const int32_t> ids, Sampler* sampler);

  // Puts the weights of another checkpoint in the place of the present ones: same names, dtypes and shapes,
  // scales included, and the same config.json. The plan stands, and the same rows prepare them, in the memory
  // that the old ones had (no other is taken). Every sequence is reset: what its caches hold came from other
  // weights. Throws Error{kModel} that names the first tensor that differs, expected and found; then the
  // session goes on with its old weights and sequences. The old model is not read after this returns.
  void update_weights(const model::Model& model);

  // How often each row of plan().rows has run, in their order, since the session began or reset_counts();
  // plan::compare_counts holds them against the plan (of eager passes: recorded ones count what pads them).
  std::span<const plan::RowCount> counts() const { return counts_; }
  void reset_counts();

  int64_t length(int32_t sequence) const;  // positions that the sequence holds
  void reset(int32_t sequence);            // forget them
  const plan::Plan& plan() const { return plan_; }

 private:
  // Those that kernels read.
  const plan::PreparedWeights& weights() const {
    return plan_.device.accelerator == nullptr ? prepared_ : uploaded_.weights;
  }
  size_t index_of(int32_t sequence) const;
  void check(std::span<const Chunk> chunks);
  // The pass as the host writes it down; returns its tokens.
  int64_t place_tokens(std::span<const Chunk> chunks, const PassInputs& inputs);
  void run_layers(const Activations& at, Tap* tap);
  View<float, 2> run_head(const Activations& at, int64_t count);
  View<const float, 2> forward_here(std::span<const Chunk> chunks, Tap* tap, plan::Conductor* conductor);

  // In memory that the host does not read.
  View<const float, 2> forward_there(std::span<const Chunk> chunks);
  View<float, 2> pass_there(std::span<const Chunk> chunks);
  void choose_here(std::span<const Chunk> chunks, std::span<Sampler* const> samplers);
  void choose_there(std::span<const Chunk> chunks, std::span<Sampler* const> samplers);
  int64_t count_of(std::span<Sampler* const> samplers) const;
  LargestOutputs read_largest(const View<float, 2>& logits, int64_t count);
  // pass(); if it throws, its sequences are reset: what their caches hold is half of it.
  template <class Pass>
  auto attempt(std::span<const Chunk> chunks, const Pass& pass) {
    try {
      return pass();
    } catch (...) {
      give_up(chunks);
      throw;
    }
  }
  void give_up(std::span<const Chunk> chunks);
  View<const float, 2> read(View<float, 2> logits);
  void run_pass(int64_t tokens, int64_t logit_rows);
  void record_passes();
  void try_choices();
  const RecordedPass* recorded_for(int64_t tokens) const;
  void run(const RecordedPass& pass);

  plan::Plan plan_;
  const model::Model* model_;
  plan::PreparedWeights prepared_;
  std::unique_ptr<Workers> workers_;
  Stream stream_;
  const Memory& memory_;  // of everything that kernels read
  plan::DeviceWeights uploaded_;
  Buffer caches_;
  Buffer arena_;
  Buffer workspace_;
  Buffer staging_;  // where the host does not read the device's: a pass's inputs, and logits
  std::vector<plan::RowCount> counts_;
  plan::CountedLane lane_;
  PageTable pages_;
  std::vector<int64_t> lengths_;
  std::vector<RecordedPass> recorded_;
  std::vector<int32_t> chosen_;
  std::vector<uint8_t> in_pass_;  // of check(): sequences that the chunks have named
};

}  // namespace fulgurite::execute
