#include "fulgurite/model/lint.h"

#include <algorithm>
#include <charconv>
#include <map>
#include <set>
#include <utility>

#include "fulgurite/core/error.h"
#include "fulgurite/core/json.h"
#include "fulgurite/model/lint_sample.h"

namespace fulgurite::model {
namespace {

using checkpoint::Problem;
using checkpoint::ProblemKind;
using checkpoint::TensorView;

// "model.layers.7.mlp.experts.3.x", "layers.7.ffn.experts.3.x": layer 7, expert 3. For messages alone: nothing
// is bound by it.
struct Place {
  int64_t layer = kNoLayer;
  int64_t expert = kNotRouted;
  std::string_view rest;  // after the layer
};

std::optional<int64_t> number_after(std::string_view& text, std::string_view prefix) {
  if (!text.starts_with(prefix)) return std::nullopt;
  int64_t number = 0;
  const char* const begin = text.data() + prefix.size();
  const auto [end, error] = std::from_chars(begin, text.data() + text.size(), number);
  if (error != std::errc() || end == text.data() + text.size() || *end != '.') return std::nullopt;
  text.remove_prefix(static_cast<size_t>(end + 1 - text.data()));
  return number;
}

Place place_of(std::string_view name) {
  Place place;
  for (const std::string_view prefix : {"model.layers.", "layers."})
    if (place.layer == kNoLayer) place.layer = number_after(name, prefix).value_or(kNoLayer);
  place.rest = name;
  for (const std::string_view prefix : {"mlp.experts.", "ffn.experts."})
    if (place.expert == kNotRouted) place.expert = number_after(name, prefix).value_or(kNotRouted);
  return place;
}

constexpr const char* kRopeStyle = "indexer_rope_interleave";

class Linter {
 public:
  explicit Linter(const checkpoint::Survey& survey)
      : survey_(survey), tensors_(survey.tensors), claimed_(survey.tensors.size()) {}

  Inspection run(Sampling sampling) {
    check_files();
    read_config();
    if (report_.config && agrees_in_structure()) {
      check_table();
      check_unknown();
      check_mtp();
      check_shared_indexers();
      check_experts();
      if (sampling == Sampling::kSample) sample(report_);
    }
    std::ranges::stable_sort(report_.findings, {}, &Finding::rule);
    return std::move(report_);
  }

 private:
  const Config& config() const { return *report_.config; }
  void add(Rule rule, const std::string& subject, std::string message) {
    report_.findings.push_back({rule, subject, std::move(message)});
  }

  // --- files ---

  void check_files() {
    for (const Problem& problem : survey_.problems) add(rule_of(problem), problem.subject, problem.message);
  }

  Rule rule_of(const Problem& problem) const {
    switch (problem.kind) {
      case ProblemKind::kNoShard:
        return Rule::kMissingShard;
      case ProblemKind::kUnreadableShard:
        return Rule::kUnreadableShard;
      case ProblemKind::kStrayShard:
        return Rule::kStrayShard;
      case ProblemKind::kElsewhere: {
        const auto first = std::ranges::lower_bound(tensors_, problem.subject, {}, &TensorView::name);
        const auto last = std::ranges::upper_bound(tensors_, problem.subject, {}, &TensorView::name);
        return last - first > 1 ? Rule::kDuplicateTensor : Rule::kShardIndex;
      }
      default:
        return Rule::kShardIndex;
    }
  }

  bool unread(const std::string& tensor) const { return std::ranges::binary_search(survey_.unread, tensor); }

  // --- config.json ---

  // Two keys have a rule of their own; without them the rest can still be read.
  void read_config() {
    const std::string what = checkpoint::printable_path(survey_.config_path());
    try {
      Json json = parse_json(survey_.config_text, what, ErrorKind::kConfig);
      if (json.is_object()) {
        take_rope_style(json, what);
        take_tying(json, what);
      }
      report_.config = with_stored_experts(parse_config(json.dump(), what), tensors_);
    } catch (const Error& error) {
      add(Rule::kConfig, "config.json", error.what());
    }
  }

  void take_rope_style(Json& json, const std::string& what) {
    const Json type = json.value("model_type", Json()), found = json.value(kRopeStyle, Json());
    if (!type.is_string() || !found.is_boolean()) return;
    const std::optional<bool> expected = interleaves_index_rope(type.get<std::string>());
    if (!expected || found == *expected) return;
    add(Rule::kIndexerRopeStyle, "config.json",
        fmt::format("{}: \"{}\": expected {} for {}, found {}", what, kRopeStyle, *expected,
                    type.get<std::string>(), found.get<bool>()));
    json.erase(kRopeStyle);
  }

  void take_tying(Json& json, const std::string& what) {
    if (json.value("tie_word_embeddings", Json()) != true) return;
    tied_ = true;
    const bool v4 = json.value("model_type", Json()) == "deepseek_v4";
    add(Rule::kTiedTensor, v4 ? "head.weight" : "lm_head.weight",
        what + ": \"tie_word_embeddings\": expected false, found true");
    json.erase("tie_word_embeddings");
  }

  // --- does the table of names fit at all? ---

  // Otherwise every single tensor would be missing or unknown.
  bool agrees_in_structure() {
    int64_t layers = 0, experts = 0;
    std::set<int64_t> with_router;
    const auto note = [&](const std::string& name) {
      const Place place = place_of(name);
      layers = std::max(layers, place.layer + 1);
      if (place.layer < config().layers) experts = std::max(experts, place.expert + 1);
      if (place.rest == "mlp.gate.weight" && place.layer < config().layers) with_router.insert(place.layer);
    };
    for (const TensorView& tensor : tensors_) note(tensor.name);
    for (const std::string& name : survey_.unread) note(name);
    if (layers == 0) return true;
    const int64_t known = config().layers + config().mtp_layers;
    const bool stray_mtp = config().mtp_layers == 0 && has_mtp(config().layers);
    bool agrees = true;
    const auto contradicts = [&](std::string_view key, int64_t says, std::string_view what, int64_t found) {
      add(Rule::kConfigContradiction, "config.json",
          fmt::format("{}: \"{}\": says {}, the tensors have {} {}",
                      checkpoint::printable_path(survey_.config_path()), key, says, found, what));
      agrees = false;
    };
    if (layers < config().layers || (layers > known && !stray_mtp))
      contradicts("num_hidden_layers", config().layers, "layers", layers);
    if (experts > 0 && experts != config().experts)
      contradicts("n_routed_experts", config().experts, "experts in a layer", experts);
    if (!config().window && !with_router.empty() && *with_router.begin() != config().dense_layers && agrees)
      contradicts("first_k_dense_replace", config().dense_layers, "dense layers before the first router",
                  *with_router.begin());
    return agrees;
  }

  bool has_mtp(int64_t layer) const {
    return checkpoint::find(tensors_, fmt::format("model.layers.{}.eh_proj.weight", layer)) != nullptr;
  }

  // --- the table ---

  void claim(const std::vector<const TensorView*>& parts, int64_t& bytes) {
    for (const TensorView* const part : parts) {
      claimed_[static_cast<size_t>(part - tensors_.data())] = true;
      bytes += static_cast<int64_t>(part->bytes.size());
    }
  }

  void check_table() {
    Names names = names_in(tensors_, config());
    for (Finding& finding : names.findings) {
      claimed_[static_cast<size_t>(checkpoint::find(tensors_, finding.subject) - tensors_.data())] = true;
      report_.findings.push_back(std::move(finding));
    }
    std::vector<std::pair<const TensorName*, Finding>> findings;
    report_.weights.reserve(names.names.size());
    for (TensorName& name : names.names) {
      Inspected& weight = report_.weights.emplace_back();
      weight.name = std::move(name);
      weight.parts = parts_of(tensors_, weight.name);
      claim(weight.parts, weight.name.required ? report_.bound_bytes : report_.left_out_bytes);
      if (!weight.name.required) continue;
      std::variant<Bound, Finding> examined = examine(tensors_, config(), weight.name);
      if (auto* const finding = std::get_if<Finding>(&examined))
        findings.emplace_back(&weight.name, std::move(*finding));
      else
        describe_form(std::get<Bound>(examined), weight);
    }
    add_findings(findings);
  }

  void describe_form(const Bound& bound, Inspected& weight) {
    if (const auto* const matrix = std::get_if<StoredMatrix>(&bound.as)) {
      weight.matrix = *matrix;
      weight.form = describe(format_of(*matrix));
      return;
    }
    if (const auto* const table = std::get_if<StoredTable>(&bound.as)) {
      weight.table = *table;
      weight.form = "i64";
      return;
    }
    const bool half = std::holds_alternative<View<const bf16, 1>>(std::get<StoredVector>(bound.as));
    weight.form = half ? "bf16" : "f32";
    if (weight.name.role == Role::kRouterBias && half)
      add(Rule::kRouterBiasPrecision, weight.name.name,
          fmt::format("{}: expected F32, file has {}", weight.name.name,
                      checkpoint::describe(*weight.parts.front())));
  }

  // Where all tensors of one role disagree in the same way, config.json does.
  void add_findings(const std::vector<std::pair<const TensorName*, Finding>>& findings) {
    std::map<std::pair<Role, Rule>, int64_t> counts;
    std::map<Role, int64_t> of_role;
    for (const auto& [name, finding] : findings) ++counts[{name->role, finding.rule}];
    for (const Inspected& weight : report_.weights) ++of_role[weight.name.role];
    std::map<std::pair<Role, Rule>, bool> told;
    for (const auto& [name, finding] : findings) {
      if (is_unread(*name, finding)) continue;
      const std::pair key{name->role, finding.rule};
      const bool of_config = finding.rule == Rule::kTensorShape || finding.rule == Rule::kScaleShape ||
                             finding.rule == Rule::kConfigContradiction;
      const bool all = of_config && counts[key] > 1 && counts[key] == of_role[name->role];
      if (!all && finding.rule == Rule::kMissingTensor && name->role == Role::kHead) {
        if (!tied_) add(Rule::kTiedTensor, finding.subject, finding.message);
      } else if (!all) {
        report_.findings.push_back(finding);
      } else if (!std::exchange(told[key], true)) {
        add(Rule::kConfigContradiction, finding.subject,
            fmt::format("{} (and so all {} tensors of this role)", finding.message, counts[key]));
      }
    }
  }

  // What stands in a shard that could not be read is not missing.
  bool is_unread(const TensorName& name, const Finding& finding) const {
    if (finding.rule == Rule::kMissingTensor || finding.rule == Rule::kScaleWithoutWeight)
      return unread(name.name);
    if (finding.rule != Rule::kWeightWithoutScale) return false;
    const PartNames names = part_names(name);
    return std::ranges::any_of(names.scales, [&](const std::string& scale) { return unread(scale); }) ||
           unread(names.global);
  }

  void check_unknown() {
    std::map<int64_t, std::vector<const TensorView*>> beyond;  // by layer
    for (size_t i = 0; i < tensors_.size(); ++i) {
      const TensorView& tensor = tensors_[i];
      const bool twice = i > 0 && tensors_[i - 1].name == tensor.name;
      if (claimed_[i] || twice) continue;
      const int64_t layer = place_of(tensor.name).layer;
      if (layer >= config().layers + config().mtp_layers && has_mtp(layer))
        beyond[layer].push_back(&tensor);
      else
        add(Rule::kUnknownTensor, tensor.name,
            fmt::format("{}: {}: no tensor of {} has this name", printable(tensor.name),
                        checkpoint::describe(tensor), name(config().family)));
    }
    for (const auto& [layer, tensors] : beyond)
      add(Rule::kMtpTensors, tensors.front()->name,
          fmt::format(
              "model.layers.{}: {} tensors of an MTP layer, config.json has num_nextn_predict_layers {}",
              layer, tensors.size(), config().mtp_layers));
  }

  // --- what belongs together ---

  // How much of a part of the model that is left out is there.
  struct Presence {
    int64_t wanted = 0, there = 0;
    const std::string *first = nullptr, *first_missing = nullptr;
  };
  std::map<int64_t, Presence> presence(Role role) const {  // by layer
    std::map<int64_t, Presence> layers;
    for (const Inspected& weight : report_.weights) {
      if (weight.name.role != role) continue;
      Presence& layer = layers[weight.name.layer];
      ++layer.wanted;
      if (layer.first == nullptr) layer.first = &weight.name.name;
      if (!weight.parts.empty() || unread(weight.name.name))
        ++layer.there;
      else if (layer.first_missing == nullptr)
        layer.first_missing = &weight.name.name;
    }
    return layers;
  }

  void check_mtp() {
    for (const auto& [layer, found] : presence(Role::kMtp)) {
      if (layer >= config().layers + config().mtp_layers)
        add(Rule::kMtpTensors, *found.first,
            fmt::format("{}: one of {} tensors of an MTP stage, config.json has {} of them", *found.first,
                        found.wanted, config().mtp_layers));
      if (found.first_missing != nullptr)
        add(Rule::kMtpTensors, *found.first_missing,
            fmt::format(
                "{}: config.json has num_nextn_predict_layers {}, but of the {} weights of layer {} there "
                "are {}",
                *found.first_missing, config().mtp_layers, found.wanted, layer, found.there));
    }
  }

  // None are needed; a whole indexer is what some converters ship for every layer.
  void check_shared_indexers() {
    for (const auto& [layer, found] : presence(Role::kSharedIndexer))
      if (found.there != 0 && found.first_missing != nullptr)
        add(Rule::kSharedIndexer, *found.first_missing,
            fmt::format("{}: layer {} shares the selection of the layer before it, and of the {} weights of "
                        "an indexer there are {}",
                        *found.first_missing, layer, found.wanted, found.there));
  }

  void check_experts() {
    std::map<int64_t, const Inspected*> first;  // by layer
    for (const Inspected& weight : report_.weights) {
      if (weight.name.expert == kNotRouted || !weight.matrix) continue;
      const Inspected* const other = first.try_emplace(weight.name.layer, &weight).first->second;
      if (format_of(*weight.matrix) == format_of(*other->matrix)) continue;
      add(Rule::kExpertForms, weight.name.name,
          fmt::format("{}: expected {} as {}, found {}", weight.name.name, other->form, other->name.name,
                      weight.form));
    }
  }

  const checkpoint::Survey& survey_;
  TensorList tensors_;
  std::vector<bool> claimed_;
  bool tied_ = false;
  Inspection report_;
};

}  // namespace

Inspection inspect(const checkpoint::Survey& survey, Sampling sampling) {
  return Linter(survey).run(sampling);
}

}  // namespace fulgurite::model
