#include "fulgurite/core/json.h"

#include <cmath>
#include <set>

namespace fulgurite {
namespace {

constexpr int kDeepest = 64;

// Watches the parser: keys seen twice in one object, and depth.
class StrictKeys {
 public:
  StrictKeys(const std::string& what, ErrorKind kind) : what_(what), kind_(kind) {}

  bool operator()(int depth, Json::parse_event_t event, Json& value) {
    if (depth > kDeepest) fail(kind_, "{}: nested deeper than {} levels", what_, kDeepest);
    if (event == Json::parse_event_t::object_start) {
      seen_.emplace_back();
    } else if (event == Json::parse_event_t::object_end) {
      seen_.pop_back();
    } else if (event == Json::parse_event_t::key) {
      const auto& key = value.get_ref<const std::string&>();
      if (!seen_.back().insert(key).second) fail(kind_, "{}: key \"{}\" stands twice", what_, printable(key));
    }
    return true;
  }

 private:
  const std::string& what_;
  ErrorKind kind_;
  std::vector<std::set<std::string>> seen_;
};

std::string found(const Json& value) {
  return printable(value.dump(-1, ' ', false, Json::error_handler_t::replace), 60);
}

}  // namespace

Json parse_json(std::string_view text, const std::string& what, ErrorKind kind) {
  // The parser takes a NUL for the end of the text and would not see what follows.
  if (const size_t at = text.find('\0'); at != text.npos)
    fail(kind, "{}: not valid JSON: byte {} is NUL", what, at);
  StrictKeys strict(what, kind);
  try {
    return Json::parse(
        text, [&](int depth, Json::parse_event_t event, Json& value) { return strict(depth, event, value); });
  } catch (const Json::exception& error) {
    fail(kind, "{}: not valid JSON: {}", what, printable(error.what(), 200));
  }
}

Fields::Fields(const Json& object, std::string what) : object_(&object), what_(std::move(what)) {
  if (!object.is_object()) fail(ErrorKind::kConfig, "{}: expected an object, found {}", what_, found(object));
}

bool Fields::has(std::string_view key) const {
  const auto at = object_->find(key);
  return at != object_->end() && !at->is_null();
}

const Json& Fields::value(std::string_view key) const {
  const auto at = object_->find(key);
  if (at == object_->end()) fail(ErrorKind::kConfig, "{}: key \"{}\" is missing", what_, printable(key));
  return *at;
}

void Fields::wrong(std::string_view key, std::string_view expected) const {
  fail(ErrorKind::kConfig, "{}: \"{}\": expected {}, found {}", what_, printable(key), expected,
       found(value(key)));
}

int64_t Fields::integer(std::string_view key, int64_t low, int64_t high) const {
  const Json& json = value(key);
  const bool fits = json.is_number_unsigned() ? json.get<uint64_t>() <= static_cast<uint64_t>(INT64_MAX)
                                              : json.is_number_integer();
  if (!fits || json.get<int64_t>() < low || json.get<int64_t>() > high)
    wrong(key, fmt::format("an integer in [{}, {}]", low, high));
  return json.get<int64_t>();
}

double Fields::number(std::string_view key, double low, double high) const {
  const Json& json = value(key);
  if (!json.is_number() || !(json.get<double>() >= low && json.get<double>() <= high))
    wrong(key, fmt::format("a number in [{:g}, {:g}]", low, high));
  return json.get<double>();
}

std::string Fields::text(std::string_view key) const {
  const Json& json = value(key);
  if (!json.is_string()) wrong(key, "a string");
  return json.get<std::string>();
}

bool Fields::boolean(std::string_view key) const {
  const Json& json = value(key);
  if (!json.is_boolean()) wrong(key, "true or false");
  return json.get<bool>();
}

Fields Fields::object(std::string_view key) const {
  const Json& json = value(key);
  if (!json.is_object()) wrong(key, "an object");
  return Fields(json, fmt::format("{}: \"{}\"", what_, printable(key)));
}

std::vector<std::string> Fields::keys() const {
  std::vector<std::string> keys;
  for (const auto& item : object_->items()) keys.push_back(item.key());
  return keys;
}

}  // namespace fulgurite
