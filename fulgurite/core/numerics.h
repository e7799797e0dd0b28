#pragma once
// Every numeric choice, one value. The planner prints it, references and kernels read it; docs/numerics.md
// says what each knob means in each operation. A preset is a value of these knobs, never other code.

#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace fulgurite {

enum class Activation { kFp32, kBf16, kFp16 };             // storage between operations
enum class ActivationQuant { kNone, kE4m3 };               // operands of block-scaled linears
enum class ActivationScale { kCheckpoint, kFp32, kPow2 };  // scales of those codes
enum class ScaleForm { kMultiplied, kDivided };            // fp32 scales: amax * fp32(1/448), or amax / 448
enum class NormInput { kUnrounded, kRounded };             // the residual sum that a norm reads
enum class Rsqrt {
  kCorrect,
  kTwoStep,
  kX86_12,
  kX86_14,
  kCuda,
  kError
};  // fp32(1 / sqrt(double)) | 1.0f / sqrtf | ...
enum class Mla { kAbsorbed, kExpanded };
enum class LatentCache { kFp32, kBf16, kFp8 };
enum class IndexerWk { kFp32, kBf16, kFp8 };
enum class Gate { kFp32, kBf16 };  // rounding of the head gate's sum
enum class GateWeight { kStored, kFp8 };
enum class Hadamard { kNone, kQ, kBoth };
enum class IndexQuant { kNone, kFp8, kFp4, kFamily };  // of family: fp8, DeepSeek-V4's fp4
enum class IndexScale { kPow2, kFp32 };
enum class IndexerRope { kFamily, kInterleaved, kHalfSplit };
enum class IndexNorm { kFp32, kBf16 };  // its parameters
enum class KvQuant { kNone, kE4m3 };    // DeepSeek-V4: the kv row
enum class SharedClamp { kOff, kOn };   // DeepSeek-V4: the shared expert
enum class SoftmaxTile { kNone, k64, k128 };
enum class SoftmaxMerge { kRunning, kIndependent };
enum class SoftmaxDenominator { kUnrounded, kRounded };
enum class SoftmaxP { kFp32, kBf16 };
enum class QkOperands { kFp32, kBf16 };
enum class Ties { kLower, kHigher };
enum class Mma { kExact, kHopper };

struct Numerics {
  Activation activation = Activation::kFp32;
  ActivationQuant activation_quant = ActivationQuant::kNone;
  ActivationScale activation_scale = ActivationScale::kCheckpoint;
  ScaleForm scale_form = ScaleForm::kMultiplied;
  NormInput norm_input = NormInput::kUnrounded;
  Rsqrt rsqrt = Rsqrt::kCorrect;
  float rsqrt_error = 0.0f;  // of kError: relative
  Mla mla = Mla::kAbsorbed;
  LatentCache latent_cache = LatentCache::kFp32;
  IndexerWk indexer_wk = IndexerWk::kFp32;
  Gate gate = Gate::kFp32;
  GateWeight gate_weight = GateWeight::kStored;
  Hadamard hadamard = Hadamard::kNone;
  IndexQuant index_quant = IndexQuant::kNone;
  IndexScale index_scale = IndexScale::kPow2;
  IndexerRope indexer_rope = IndexerRope::kFamily;
  IndexNorm index_norm = IndexNorm::kFp32;
  float index_norm_eps = 1e-6f;
  KvQuant kv_quant = KvQuant::kNone;
  SharedClamp shared_clamp = SharedClamp::kOn;
  SoftmaxTile softmax_tile = SoftmaxTile::kNone;
  SoftmaxMerge softmax_merge = SoftmaxMerge::kRunning;
  SoftmaxDenominator softmax_denominator = SoftmaxDenominator::kUnrounded;
  SoftmaxP softmax_p = SoftmaxP::kFp32;
  QkOperands qk_operands = QkOperands::kFp32;
  Ties ties = Ties::kLower;
  Mma mma = Mma::kExact;

  bool operator==(const Numerics&) const = default;

  // Stored weights at their exact values, fp32 storage and sums, no quantization: what proves the graph.
  static Numerics fp32() { return {}; }
  // What an engine runs: fp8 operands, bf16 between operations, fp32 sums.
  static Numerics serving();

  // What operations are given: the values that say "as the model has it" replaced by the model's.
  Numerics resolved(ActivationScale of_checkpoint, IndexQuant of_family) const;
};

// The names of docs/numerics.md: a knob's, and those of its values in the order of the enum.
struct KnobNames {
  std::string_view knob;
  std::span<const std::string_view> values;
};
KnobNames names_of(Activation);
KnobNames names_of(ActivationQuant);
KnobNames names_of(ActivationScale);
KnobNames names_of(ScaleForm);
KnobNames names_of(NormInput);
KnobNames names_of(Rsqrt);
KnobNames names_of(Mla);
KnobNames names_of(LatentCache);
KnobNames names_of(IndexerWk);
KnobNames names_of(Gate);
KnobNames names_of(GateWeight);
KnobNames names_of(Hadamard);
KnobNames names_of(IndexQuant);
KnobNames names_of(IndexScale);
KnobNames names_of(IndexerRope);
KnobNames names_of(IndexNorm);
KnobNames names_of(KvQuant);
KnobNames names_of(SharedClamp);
KnobNames names_of(SoftmaxTile);
KnobNames names_of(SoftmaxMerge);
KnobNames names_of(SoftmaxDenominator);
KnobNames names_of(SoftmaxP);
KnobNames names_of(QkOperands);
KnobNames names_of(Ties);
KnobNames names_of(Mma);

template <class Knob>
std::string_view knob_name(Knob value) {
  return names_of(value).knob;
}
template <class Knob>
std::string_view value_name(Knob value) {
  const auto values = names_of(value).values;
  const auto at = static_cast<size_t>(value);
  return at < values.size() ? values[at] : "unknown";  // which no rule takes
}

// Every knob with its value, in the order above.
std::vector<std::pair<std::string, std::string>> describe(const Numerics& numerics);

// "PRESET[,knob=value...]": "serving", "fp32,mla=expanded", "serving,rsqrt=error:1e-4,index_norm_eps=1e-5".
// Throws Error{kRequest} naming the preset, knob or value and what may stand there.
Numerics parse_numerics(std::string_view text);
// The same in short: the preset it is nearest to, and the knobs that differ from it.
std::string summary(const Numerics& numerics);

}  // namespace fulgurite
