#include "fulgurite/core/numerics.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <charconv>

#include "fulgurite/core/error.h"

namespace fulgurite {

KnobNames names_of(Activation) {
  static constexpr std::string_view kValues[] = {"fp32", "bf16", "fp16"};
  return {"activation", kValues};
}
KnobNames names_of(ActivationQuant) {
  static constexpr std::string_view kValues[] = {"none", "e4m3"};
  return {"activation_quant", kValues};
}
KnobNames names_of(ActivationScale) {
  static constexpr std::string_view kValues[] = {"checkpoint", "fp32", "pow2"};
  return {"activation_scale", kValues};
}
KnobNames names_of(ScaleForm) {
  static constexpr std::string_view kValues[] = {"multiplied", "divided"};
  return {"scale_form", kValues};
}
KnobNames names_of(NormInput) {
  static constexpr std::string_view kValues[] = {"unrounded", "rounded"};
  return {"norm_input", kValues};
}
KnobNames names_of(Rsqrt) {
  static constexpr std::string_view kValues[] = {"correct", "two_step", "x86_12", "x86_14", "cuda", "error"};
  return {"rsqrt", kValues};
}
KnobNames names_of(Mla) {
  static constexpr std::string_view kValues[] = {"absorbed", "expanded"};
  return {"mla", kValues};
}
KnobNames names_of(LatentCache) {
  static constexpr std::string_view kValues[] = {"fp32", "bf16", "fp8"};
  return {"latent_cache", kValues};
}
KnobNames names_of(IndexerWk) {
  static constexpr std::string_view kValues[] = {"fp32", "bf16", "fp8"};
  return {"indexer_wk", kValues};
}
KnobNames names_of(Gate) {
  static constexpr std::string_view kValues[] = {"fp32", "bf16"};
  return {"gate", kValues};
}
KnobNames names_of(GateWeight) {
  static constexpr std::string_view kValues[] = {"stored", "fp8"};
  return {"gate_weight", kValues};
}
KnobNames names_of(Hadamard) {
  static constexpr std::string_view kValues[] = {"none", "q", "both"};
  return {"hadamard", kValues};
}
KnobNames names_of(IndexQuant) {
  static constexpr std::string_view kValues[] = {"none", "fp8", "fp4", "family"};
  return {"index_quant", kValues};
}
KnobNames names_of(IndexScale) {
  static constexpr std::string_view kValues[] = {"pow2", "fp32"};
  return {"index_scale", kValues};
}
KnobNames names_of(IndexerRope) {
  static constexpr std::string_view kValues[] = {"family", "interleaved", "half_split"};
  return {"indexer_rope", kValues};
}
KnobNames names_of(IndexNorm) {
  static constexpr std::string_view kValues[] = {"fp32", "bf16"};
  return {"index_norm", kValues};
}
KnobNames names_of(KvQuant) {
  static constexpr std::string_view kValues[] = {"none", "e4m3"};
  return {"kv_quant", kValues};
}
KnobNames names_of(SharedClamp) {
  static constexpr std::string_view kValues[] = {"off", "on"};
  return {"shared_clamp", kValues};
}
KnobNames names_of(SoftmaxTile) {
  static constexpr std::string_view kValues[] = {"none", "64", "128"};
  return {"softmax_tile", kValues};
}
KnobNames names_of(SoftmaxMerge) {
  static constexpr std::string_view kValues[] = {"running", "independent"};
  return {"softmax_merge", kValues};
}
KnobNames names_of(SoftmaxDenominator) {
  static constexpr std::string_view kValues[] = {"unrounded", "rounded"};
  return {"softmax_denominator", kValues};
}
KnobNames names_of(SoftmaxP) {
  static constexpr std::string_view kValues[] = {"fp32", "bf16"};
  return {"softmax_p", kValues};
}
KnobNames names_of(QkOperands) {
  static constexpr std::string_view kValues[] = {"fp32", "bf16"};
  return {"qk_operands", kValues};
}
KnobNames names_of(Ties) {
  static constexpr std::string_view kValues[] = {"lower", "higher"};
  return {"ties", kValues};
}
KnobNames names_of(Mma) {
  static constexpr std::string_view kValues[] = {"exact", "hopper"};
  return {"mma", kValues};
}

namespace {

// Calls visit(field) for every knob that is an enum, in the order of the struct.
template <class N, class Visit>
void for_each_knob(N& n, const Visit& visit) {
  visit(n.activation);
  visit(n.activation_quant);
  visit(n.activation_scale);
  visit(n.scale_form);
  visit(n.norm_input);
  visit(n.rsqrt);
  visit(n.mla);
  visit(n.latent_cache);
  visit(n.indexer_wk);
  visit(n.gate);
  visit(n.gate_weight);
  visit(n.hadamard);
  visit(n.index_quant);
  visit(n.index_scale);
  visit(n.indexer_rope);
  visit(n.index_norm);
  visit(n.kv_quant);
  visit(n.shared_clamp);
  visit(n.softmax_tile);
  visit(n.softmax_merge);
  visit(n.softmax_denominator);
  visit(n.softmax_p);
  visit(n.qk_operands);
  visit(n.ties);
  visit(n.mma);
}

// The user's text, fit for a message of one line.
std::string shown(std::string_view text) { return printable(text, 80); }

// What a knob that is a number may be, and the same for a message.
struct Range {
  float low, high;
  bool ends;  // may it be low or high itself?
  const char* text;
};
constexpr Range kIndexNormEps{1e-12f, 0.1f, true, "[1e-12, 0.1]"};
constexpr Range kRsqrtError{-0.5f, 0.5f, false, "(-0.5, 0.5)"};

float number(std::string_view knob, std::string_view text, const Range& range) {
  float value = 0.0f;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  const bool read = error == std::errc() && end == text.data() + text.size();
  const bool inside =  // false for NaN
      range.ends ? value >= range.low && value <= range.high : value > range.low && value < range.high;
  if (!read || !inside)
    fail(ErrorKind::kRequest, "numerics: {}: expected a number in {}, found \"{}\"", knob, range.text,
         shown(text));
  return value;
}

template <class Knob>
void set(Knob& knob, std::string_view text) {
  int index = 0;
  for (const std::string_view name : names_of(knob).values) {
    if (name == text) {
      knob = static_cast<Knob>(index);
      return;
    }
    ++index;
  }
  fail(ErrorKind::kRequest, "numerics: {}: expected one of {}, found \"{}\"", knob_name(knob),
       fmt::join(names_of(knob).values, ", "), shown(text));
}

// The knobs that are numbers, and rsqrt's value that carries one.
bool set_number(Numerics& n, std::string_view knob, std::string_view text) {
  constexpr std::string_view kError = "error:";
  if (knob == "index_norm_eps") {
    n.index_norm_eps = number(knob, text, kIndexNormEps);
  } else if (knob == "rsqrt" && text.starts_with(kError)) {
    n.rsqrt = Rsqrt::kError;
    n.rsqrt_error = number("rsqrt=error", text.substr(kError.size()), kRsqrtError);
  } else {
    return false;
  }
  return true;
}

void set_knob(Numerics& n, std::string_view knob, std::string_view text) {
  if (set_number(n, knob, text)) return;
  std::vector<std::string> known;
  bool found = false;
  for_each_knob(n, [&](auto& field) {
    known.emplace_back(knob_name(field));
    if (knob_name(field) != knob) return;
    set(field, text);
    found = true;
  });
  if (!found)
    fail(ErrorKind::kRequest, "numerics: no knob \"{}\"; there are {}, index_norm_eps", shown(knob),
         fmt::join(known, ", "));
  if (n.rsqrt == Rsqrt::kError && knob == "rsqrt")
    fail(ErrorKind::kRequest, "numerics: rsqrt=error needs its relative error: rsqrt=error:1e-4");
}

Numerics preset(std::string_view name) {
  if (name == "fp32") return Numerics::fp32();
  if (name == "serving") return Numerics::serving();
  fail(ErrorKind::kRequest,
       "numerics: expected PRESET[,knob=value...] with preset fp32 or serving, found \"{}\"", shown(name));
}

}  // namespace

Numerics Numerics::serving() {
  Numerics n;
  n.activation = Activation::kBf16;
  n.activation_quant = ActivationQuant::kE4m3;
  n.latent_cache = LatentCache::kFp8;
  n.indexer_wk = IndexerWk::kBf16;
  n.hadamard = Hadamard::kBoth;
  n.index_quant = IndexQuant::kFamily;
  n.kv_quant = KvQuant::kE4m3;
  n.shared_clamp = SharedClamp::kOff;
  n.softmax_tile = SoftmaxTile::k64;
  n.softmax_p = SoftmaxP::kBf16;
  n.qk_operands = QkOperands::kBf16;
  return n;
}

Numerics Numerics::resolved(ActivationScale of_checkpoint, IndexQuant of_family) const {
  Numerics numerics = *this;
  if (activation_scale == ActivationScale::kCheckpoint) numerics.activation_scale = of_checkpoint;
  if (index_quant == IndexQuant::kFamily) numerics.index_quant = of_family;
  return numerics;
}

std::vector<std::pair<std::string, std::string>> describe(const Numerics& n) {
  std::vector<std::pair<std::string, std::string>> knobs;
  for_each_knob(n, [&](auto knob) {
    std::string value(value_name(knob));
    if constexpr (std::is_same_v<decltype(knob), Rsqrt>)
      if (knob == Rsqrt::kError) value += fmt::format(":{}", n.rsqrt_error);
    knobs.emplace_back(knob_name(knob), value);
    if constexpr (std::is_same_v<decltype(knob), IndexNorm>)
      knobs.emplace_back("index_norm_eps", fmt::format("{}", n.index_norm_eps));
  });
  return knobs;
}

Numerics parse_numerics(std::string_view text) {
  const size_t comma = text.find(',');
  Numerics n = preset(text.substr(0, comma));
  std::vector<std::string_view> given;
  while (text.find(',') != std::string_view::npos) {
    text.remove_prefix(text.find(',') + 1);
    const std::string_view setting = text.substr(0, text.find(','));
    const size_t equals = setting.find('=');
    if (equals == std::string_view::npos)
      fail(ErrorKind::kRequest, "numerics: expected knob=value, found \"{}\"", shown(setting));
    const std::string_view knob = setting.substr(0, equals);
    set_knob(n, knob, setting.substr(equals + 1));
    if (std::ranges::find(given, knob) != given.end())
      fail(ErrorKind::kRequest, "numerics: {} stands twice", knob);
    given.push_back(knob);
  }
  return n;
}

std::string summary(const Numerics& numerics) {
  const auto ours = describe(numerics);
  std::string best;
  size_t fewest = ours.size() + 1;
  for (const std::string_view name : {"serving", "fp32"}) {
    const auto theirs = describe(preset(name));
    std::string text(name);
    size_t differing = 0;
    for (size_t i = 0; i < ours.size(); ++i) {
      if (ours[i] == theirs[i]) continue;
      text += fmt::format(",{}={}", ours[i].first, ours[i].second);
      ++differing;
    }
    if (differing >= fewest) continue;
    fewest = differing;
    best = text;
  }
  return best;
}

}  // namespace fulgurite
