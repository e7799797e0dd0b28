#include "fulgurite/audit/dump_map.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <limits>
#include <set>

#include "fulgurite/checkpoint/mapped_file.h"
#include "fulgurite/core/json.h"

namespace fulgurite::audit {
namespace {

constexpr int64_t kMost = int64_t{1} << 40;

// With every * as the layer's number.
std::string at_layer(std::string text, int64_t layer) {
  const std::string number = std::to_string(layer);
  for (size_t at = text.find('*'); at != text.npos; at = text.find('*', at + number.size()))
    text.replace(at, 1, number);
  return text;
}

std::vector<int64_t> integers(const Fields& fields, std::string_view key) {
  const Json& list = fields.value(key);
  std::vector<int64_t> numbers;
  if (!list.is_array() || list.empty()) fields.wrong(key, "a list of integers");
  for (const Json& item : list) {
    if (!item.is_number_integer() || item.get<int64_t>() < 0) fields.wrong(key, "a list of integers from 0");
    numbers.push_back(item.get<int64_t>());
  }
  return numbers;
}

std::vector<std::string> names(const Fields& fields) {
  const Json& from = fields.value("from");
  std::vector<std::string> all;
  if (from.is_string()) return {from.get<std::string>()};
  if (!from.is_array() || from.empty()) fields.wrong("from", "a name, or a list of names");
  for (const Json& item : from) {
    if (!item.is_string()) fields.wrong("from", "a name, or a list of names");
    all.push_back(item.get<std::string>());
  }
  return all;
}

void read_rows(const Fields& fields, DumpSource& source) {
  if (!fields.has("rows")) return;
  if (!fields.value("rows").is_string()) {
    source.rows = integers(fields, "rows");
    std::vector<int64_t> sorted = source.rows;
    std::ranges::sort(sorted);
    if (const auto twice = std::ranges::adjacent_find(sorted); twice != sorted.end())
      fields.wrong("rows", fmt::format("every row once, {} stands twice", *twice));
    return;
  }
  if (fields.text("rows") != "reversed") fields.wrong("rows", "\"reversed\" or a list of integers");
  source.reversed = true;
}

void read_rope(const Fields& fields, DumpSource& source) {
  if (!fields.has("rope")) return;
  const Fields rope = fields.object("rope");
  const std::string pairs = rope.text("pairs");
  if (pairs != "halves" && pairs != "neighbours") rope.wrong("pairs", "\"halves\" or \"neighbours\"");
  source.rope = {rope.integer("first", 0, kMost), rope.integer("dims", 2, kMost), pairs == "halves"};
  if (source.rope->dims % 2 != 0) rope.wrong("dims", "an even number");
}

DumpSource read_source(const Fields& fields) {
  static const std::set<std::string> kKeys = {"from", "axis",    "transpose", "rows",
                                              "rope", "columns", "scale"};
  for (const std::string& key : fields.keys())
    if (!kKeys.contains(key))
      fail(ErrorKind::kRequest, "{}: no key \"{}\"; there are {}", fields.what(), printable(key),
           fmt::join(kKeys, ", "));
  DumpSource source;
  source.from = names(fields);
  if (fields.has("axis")) source.axis = fields.integer("axis", 0, 7);
  if (fields.has("transpose")) {
    source.transpose = integers(fields, "transpose");
    std::vector<int64_t> sorted = source.transpose;
    std::ranges::sort(sorted);
    for (size_t i = 0; i < sorted.size(); ++i)
      if (sorted[i] != static_cast<int64_t>(i)) fields.wrong("transpose", "every dimension once");
  }
  read_rows(fields, source);
  if (fields.has("columns")) {
    const std::vector<int64_t> columns = integers(fields, "columns");
    if (columns.size() != 2 || columns[1] < 1) fields.wrong("columns", "[first, count]");
    source.first_column = columns[0];
    source.columns = columns[1];
  }
  read_rope(fields, source);
  if (fields.has("scale"))
    source.scale =
        fields.number("scale", -std::numeric_limits<float>::max(), std::numeric_limits<float>::max());
  return source;
}

}  // namespace

DumpMap DumpMap::read(const std::filesystem::path& path, int64_t layers) {
  const std::string what = checkpoint::printable_path(path);
  const Json json = parse_json(checkpoint::MappedFile(path).text(), what, ErrorKind::kRequest);
  DumpMap map;
  for (const std::string& name : Fields(json, what).keys()) {
    const std::string shown = fmt::format("{}: \"{}\"", what, printable(name));
    const Json& value = json.at(name);
    DumpSource source;
    if (value.is_string())
      source.from = {value.get<std::string>()};
    else
      source = read_source(Fields(value, shown));
    const bool every = name.find('*') != name.npos;
    for (int64_t layer = 0; layer < (every ? layers : 1); ++layer) {
      DumpSource one = source;
      one.every_layer = every;
      if (every)
        for (std::string& from : one.from) from = at_layer(from, layer);
      const std::string ours = every ? at_layer(name, layer) : name;
      if (!map.sources_.emplace(ours, std::move(one)).second)
        fail(ErrorKind::kRequest, "{}: {} maps twice, also by \"{}\"", what, printable(ours),
             printable(name));
    }
  }
  return map;
}

const DumpSource* DumpMap::find(const std::string& name) const {
  const auto found = sources_.find(name);
  return found == sources_.end() ? nullptr : &found->second;
}

}  // namespace fulgurite::audit
