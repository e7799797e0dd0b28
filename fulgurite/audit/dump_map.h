#pragma once
// How another engine names and lays out what docs/formats/trace.md names: a map from our tensors to its own.
// docs/formats/dump.md describes the file.

#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <vector>

namespace fulgurite::audit {

// Where a tensor of ours comes from, and what is done to it, in this order.
struct DumpSource {
  std::vector<std::string> from;        // several: parts, side by side along `axis`
  int64_t axis = 1;                     // 1 is the first dimension of a row
  std::vector<int64_t> transpose;       // dimension i of ours is dimension transpose[i] of theirs
  bool reversed = false;                // rows: the last one first
  std::vector<int64_t> rows;            // row i of ours is row rows[i] of theirs
  std::optional<int64_t> first_column;  // of the last dimension: `columns` of them
  int64_t columns = 0;
  // Of the last dimension, from first on: pairs of RoPE that lie as the model does not have them.
  struct Rope {
    int64_t first = 0, dims = 0;
    bool halves = false;  // theirs are halves, the model's neighbours; false: the other way round
  };
  std::optional<Rope> rope;
  double scale = 1.0;        // theirs times this is ours
  bool every_layer = false;  // from a name with *: layers that have no such tensor are left out
};

class DumpMap {
 public:
  DumpMap() = default;  // every tensor is named as in docs/formats/trace.md
  // Throws Error{kRequest} or Error{kFile} for what is no such file.
  static DumpMap read(const std::filesystem::path& path, int64_t layers);

  // nullptr: named as ours. Names of ours, "layer3.q" or "input_ids".
  const DumpSource* find(const std::string& name) const;
  const std::map<std::string, DumpSource>& sources() const { return sources_; }

 private:
  std::map<std::string, DumpSource> sources_;
};

}  // namespace fulgurite::audit
