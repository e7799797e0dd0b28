#include "fulgurite/tokenizer/tokenizer_file.h"

#include <algorithm>
#include <initializer_list>

#include "fulgurite/core/json.h"

namespace fulgurite {
namespace {

constexpr int64_t kLargestId = (1 << 20) - 1;
constexpr size_t kLongestAddedToken = 1024;

std::string shown(const Json& value) {
  return printable(value.dump(-1, ' ', false, Json::error_handler_t::replace), 60);
}

[[noreturn]] void not_supported(const Fields& fields, std::string_view key) {
  fail(ErrorKind::kConfig, "{}: \"{}\": {} is not supported", fields.what(), key, shown(fields.value(key)));
}

void only_keys(const Fields& fields, std::initializer_list<std::string_view> known) {
  for (const std::string& key : fields.keys())
    if (std::find(known.begin(), known.end(), key) == known.end())
      fail(ErrorKind::kConfig, "{}: key \"{}\" is not supported", fields.what(), printable(key));
}

void must_be_null(const Fields& fields, std::string_view key) {
  if (fields.has(key)) not_supported(fields, key);
}
// `if_absent` is the library's own default.
void must_be(const Fields& fields, std::string_view key, bool value, bool if_absent) {
  if (!fields.has(key) && if_absent != value)
    fail(ErrorKind::kConfig, "{}: \"{}\" is not there: {} is not supported", fields.what(), key, if_absent);
  if (fields.has(key) && fields.boolean(key) != value) not_supported(fields, key);
}
void must_be_empty(const Fields& fields, std::string_view key) {
  if (fields.has(key) && !fields.text(key).empty()) not_supported(fields, key);
}

// The value of "type", which must be one of `known`.
std::string type_of(const Fields& fields, std::initializer_list<std::string_view> known) {
  const std::string type = fields.text("type");
  if (std::find(known.begin(), known.end(), type) == known.end())
    fail(ErrorKind::kConfig, "{}: type \"{}\" is not supported", fields.what(), printable(type));
  return type;
}

// The elements of an array of objects.
std::vector<Fields> objects(const Fields& fields, std::string_view key) {
  const Json& array = fields.value(key);
  if (!array.is_array()) fields.wrong(key, "an array");
  std::vector<Fields> elements;
  for (size_t i = 0; i < array.size(); ++i)
    elements.emplace_back(array[i], fmt::format("{}: \"{}\"[{}]", fields.what(), key, i));
  return elements;
}

void check_normalizer(const Fields& file) {
  if (!file.has("normalizer")) return;
  const Fields normalizer = file.object("normalizer");
  type_of(normalizer, {"Sequence"});
  only_keys(normalizer, {"type", "normalizers"});
  for (const Fields& step : objects(normalizer, "normalizers")) type_of(step, {});
}

// "trim_offsets" says nothing about ids.
void check_byte_level(const Fields& step) {
  only_keys(step, {"type", "add_prefix_space", "trim_offsets", "use_regex"});
  must_be(step, "add_prefix_space", false, true);
  must_be(step, "use_regex", false, true);
}

SplitStep read_split(const Fields& step) {
  only_keys(step, {"type", "pattern", "behavior", "invert"});
  if (step.text("behavior") != "Isolated") not_supported(step, "behavior");
  must_be(step, "invert", false, false);
  const Fields pattern = step.object("pattern");
  const std::vector<std::string> keys = pattern.keys();
  if (keys.size() != 1 || (keys[0] != "Regex" && keys[0] != "String"))
    step.wrong("pattern", "one \"Regex\" or \"String\"");
  const auto kind = keys[0] == "Regex" ? SplitStep::Kind::kRegex : SplitStep::Kind::kText;
  return {pattern.text(keys[0]), kind, pattern.what()};
}

std::vector<SplitStep> read_pre_tokenizer(const Fields& file) {
  const Fields pre_tokenizer = file.object("pre_tokenizer");
  std::vector<SplitStep> splits;
  if (type_of(pre_tokenizer, {"Sequence", "ByteLevel"}) == "ByteLevel") {
    check_byte_level(pre_tokenizer);
    return splits;
  }
  only_keys(pre_tokenizer, {"type", "pretokenizers"});
  const std::vector<Fields> steps = objects(pre_tokenizer, "pretokenizers");
  for (size_t i = 0; i < steps.size(); ++i) {
    const bool is_last = i + 1 == steps.size();
    if (type_of(steps[i], {"Split", "ByteLevel"}) == "Split") {
      if (is_last) break;
      splits.push_back(read_split(steps[i]));
    } else {
      check_byte_level(steps[i]);
      if (is_last) return splits;
      fail(ErrorKind::kConfig, "{}: steps behind \"ByteLevel\" are not supported", steps[i].what());
    }
  }
  pre_tokenizer.wrong("pretokenizers", "\"ByteLevel\" as the last step");
}

// What these types do concerns offsets, or the tokens around a text, which the caller puts there.
void check_post_processor(const Fields& file) {
  if (!file.has("post_processor")) return;
  const Fields processor = file.object("post_processor");
  if (type_of(processor, {"ByteLevel", "TemplateProcessing", "Sequence"}) != "Sequence") return;
  for (const Fields& step : objects(processor, "processors"))
    type_of(step, {"ByteLevel", "TemplateProcessing"});
}

AddedToken read_added_token(const Fields& token) {
  only_keys(token, {"id", "content", "single_word", "lstrip", "rstrip", "normalized", "special"});
  AddedToken added;
  added.id = static_cast<int32_t>(token.integer("id", 0, kLargestId));
  added.content = token.text("content");
  if (added.content.empty() || added.content.size() > kLongestAddedToken)
    token.wrong("content", fmt::format("1 to {} bytes", kLongestAddedToken));
  added.single_word = token.boolean("single_word");
  added.lstrip = token.boolean("lstrip");
  added.rstrip = token.boolean("rstrip");
  added.normalized = token.boolean("normalized");
  added.special = token.boolean("special");
  return added;
}

// "a b" or ["a", "b"].
std::pair<std::string, std::string> read_merge(const Json& merge, const std::string& what) {
  if (merge.is_array() && merge.size() == 2 && merge[0].is_string() && merge[1].is_string())
    return {merge[0].get<std::string>(), merge[1].get<std::string>()};
  if (merge.is_string()) {
    const auto& text = merge.get_ref<const std::string&>();
    const size_t space = text.find(' ');
    if (space != std::string::npos && text.find(' ', space + 1) == std::string::npos)
      return {text.substr(0, space), text.substr(space + 1)};
  }
  fail(ErrorKind::kConfig, "{}: expected \"a b\" or [\"a\", \"b\"], found {}", what, shown(merge));
}

bool is_version_line(const Json& merge) {
  return merge.is_string() && merge.get_ref<const std::string&>().starts_with("#version");
}

BpeDescription read_model(const Fields& file) {
  const Fields model = file.object("model");
  type_of(model, {"BPE"});
  only_keys(model, {"type", "dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix",
                    "fuse_unk", "byte_fallback", "ignore_merges", "vocab", "merges"});
  must_be_null(model, "dropout");
  must_be_null(model, "unk_token");
  must_be_empty(model, "continuing_subword_prefix");
  must_be_empty(model, "end_of_word_suffix");
  must_be(model, "fuse_unk", false, false);
  must_be(model, "byte_fallback", false, false);

  BpeDescription description;
  description.ignore_merges = model.has("ignore_merges") && model.boolean("ignore_merges");
  const Fields vocab = model.object("vocab");
  for (const std::string& token : vocab.keys())
    description.vocabulary.emplace_back(token, static_cast<int32_t>(vocab.integer(token, 0, kLargestId)));
  const Json& merges = model.value("merges");
  if (!merges.is_array()) model.wrong("merges", "an array");
  for (size_t i = 0; i < merges.size(); ++i) {
    if (is_version_line(merges[i])) continue;  // the first line of a merges.txt
    description.merges.push_back(read_merge(merges[i], fmt::format("{}: \"merges\"[{}]", model.what(), i)));
  }
  return description;
}

}  // namespace

TokenizerFile read_tokenizer_file(std::string_view json_text, const std::string& what) {
  const Json json = parse_json(json_text, what, ErrorKind::kConfig);
  const Fields file(json, what);
  only_keys(file, {"version", "truncation", "padding", "added_tokens", "normalizer", "pre_tokenizer",
                   "post_processor", "decoder", "model"});
  if (file.text("version") != "1.0") not_supported(file, "version");
  must_be_null(file, "truncation");
  must_be_null(file, "padding");
  check_normalizer(file);
  check_post_processor(file);
  type_of(file.object("decoder"), {"ByteLevel"});

  TokenizerFile read;
  read.model = read_model(file);
  for (const Fields& token : objects(file, "added_tokens"))
    read.added_tokens.push_back(read_added_token(token));
  read.splits = read_pre_tokenizer(file);
  return read;
}

}  // namespace fulgurite
