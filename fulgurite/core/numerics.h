#pragma once
// Every numeric choice, one value. The planner prints it, references and kernels read it; docs/numerics.md
// says what each knob means in each operation. A preset is a value of these knobs, never other code.

#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace fulgurite {

enum class Activation { kFp32, kBf16, kFp16 };             // storage between operations
enum class ActivationQuant { kNone, kE4m3 };               // operands of block-scaled linears
enum class ActivationScale { kCheckpoint, kFp32, kPow2 };  // scales of those codes
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
enum class IndexQuant { kNone, kFp8, kFp4 };
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

  // Stored weights at their exact values, fp32 storage and sums, no quantization: what proves the graph.
  static Numerics fp32() { return {}; }
  // What an engine runs: fp8 operands, bf16 between operations, fp32 sums.
  static Numerics serving();
};

// The names of docs/numerics.md.
std::string_view knob_name(Activation), value_name(Activation);
std::string_view knob_name(ActivationQuant), value_name(ActivationQuant);
std::string_view knob_name(ActivationScale), value_name(ActivationScale);
std::string_view knob_name(NormInput), value_name(NormInput);
std::string_view knob_name(Rsqrt), value_name(Rsqrt);
std::string_view knob_name(Mla), value_name(Mla);
std::string_view knob_name(LatentCache), value_name(LatentCache);
std::string_view knob_name(IndexerWk), value_name(IndexerWk);
std::string_view knob_name(Gate), value_name(Gate);
std::string_view knob_name(GateWeight), value_name(GateWeight);
std::string_view knob_name(Hadamard), value_name(Hadamard);
std::string_view knob_name(IndexQuant), value_name(IndexQuant);
std::string_view knob_name(IndexScale), value_name(IndexScale);
std::string_view knob_name(IndexerRope), value_name(IndexerRope);
std::string_view knob_name(IndexNorm), value_name(IndexNorm);
std::string_view knob_name(KvQuant), value_name(KvQuant);
std::string_view knob_name(SharedClamp), value_name(SharedClamp);
std::string_view knob_name(SoftmaxTile), value_name(SoftmaxTile);
std::string_view knob_name(SoftmaxMerge), value_name(SoftmaxMerge);
std::string_view knob_name(SoftmaxDenominator), value_name(SoftmaxDenominator);
std::string_view knob_name(SoftmaxP), value_name(SoftmaxP);
std::string_view knob_name(QkOperands), value_name(QkOperands);
std::string_view knob_name(Ties), value_name(Ties);
std::string_view knob_name(Mma), value_name(Mma);

// Every knob with its value, in the order above.
std::vector<std::pair<std::string, std::string>> describe(const Numerics& numerics);

}  // namespace fulgurite
