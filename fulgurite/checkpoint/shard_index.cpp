#include "fulgurite/checkpoint/shard_index.h"

#include <algorithm>

#include "fulgurite/core/error.h"
#include "fulgurite/core/json.h"

namespace fulgurite::checkpoint {
namespace {

bool is_plain_file_name(std::string_view name) {
  const bool harmless = std::none_of(name.begin(), name.end(), [](char letter) {
    return letter == '/' || letter == '\\' || static_cast<unsigned char>(letter) < 0x20;
  });
  return harmless && !name.empty() && name != "." && name != "..";
}

const std::string& shard_name(const std::string& tensor, const Json& value, const std::string& what) {
  if (!value.is_string())
    fail(ErrorKind::kFile, "{}: tensor \"{}\": expected the name of a file, found {}", what,
         printable(tensor), printable(value.dump(), 60));
  const auto& name = value.get_ref<const std::string&>();
  if (!is_plain_file_name(name))
    fail(ErrorKind::kFile, "{}: tensor \"{}\": shard \"{}\" is not a plain file name", what,
         printable(tensor), printable(name));
  return name;
}

}  // namespace

const ShardIndex::Entry* ShardIndex::find(std::string_view tensor) const {
  const auto at =
      std::lower_bound(entries.begin(), entries.end(), tensor,
                       [](const Entry& entry, std::string_view key) { return entry.tensor < key; });
  return at == entries.end() || at->tensor != tensor ? nullptr : &*at;
}

ShardIndex parse_shard_index(std::string_view text, const std::string& what) {
  const Json json = parse_json(text, what, ErrorKind::kFile);
  const auto map = json.find("weight_map");
  if (map == json.end()) fail(ErrorKind::kFile, "{}: key \"weight_map\" is missing", what);
  if (!map->is_object())
    fail(ErrorKind::kFile, "{}: weight_map: expected an object, found {}", what, printable(map->dump(), 60));

  ShardIndex index;
  for (const auto& [tensor, value] : map->items()) index.shards.push_back(shard_name(tensor, value, what));
  std::sort(index.shards.begin(), index.shards.end());
  index.shards.erase(std::unique(index.shards.begin(), index.shards.end()), index.shards.end());
  for (const auto& [tensor, value] : map->items()) {  // in the order of their names
    const auto at =
        std::lower_bound(index.shards.begin(), index.shards.end(), value.get_ref<const std::string&>());
    index.entries.push_back({tensor, static_cast<size_t>(at - index.shards.begin())});
  }
  return index;
}

}  // namespace fulgurite::checkpoint
