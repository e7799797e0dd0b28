#pragma once
// Dumps for the tests of bisect: what a plan traces of a tiny model, with its ids, to be edited and written.

#include <cstring>
#include <map>
#include <string>
#include <vector>

#include "fulgurite/audit/dump.h"
#include "fulgurite/checkpoint/writer.h"
#include "test/tiny_model.h"

namespace fulgurite::test {

struct DumpedTensor {
  DType dtype = DType::kF32;
  std::vector<int64_t> shape;
  std::vector<std::byte> bytes;

  int64_t row_bytes() const { return std::ssize(bytes) / shape[0]; }
  template <class T>
  T* as() {
    return reinterpret_cast<T*>(bytes.data());
  }
};

struct DumpFile {
  std::map<std::string, DumpedTensor> tensors;

  DumpedTensor& operator[](const std::string& name) { return tensors.at(name); }
  void rename(const std::string& from, const std::string& to) {
    auto node = tensors.extract(from);
    node.key() = to;
    tensors.insert(std::move(node));
  }
  std::filesystem::path write(const std::string& name) const {
    std::vector<checkpoint::TensorView> views;
    for (const auto& [tensor, t] : tensors) views.push_back({tensor, t.dtype, t.shape, t.bytes});
    const std::filesystem::path path = scratch_file(name + ".safetensors");
    checkpoint::write_safetensors(path, views);
    return path;
  }
};

// What these numerics compute of the first `positions` of the recorded prompt.
inline DumpFile dump_of(const Recorded& model, const Numerics& numerics, int64_t positions) {
  const TinyModel tiny(model.directory());
  std::vector<int32_t> ids = golden_ids(0, model.golden());
  ids.resize(static_cast<size_t>(positions));
  execute::Session session(tiny.model,
                           plan::make(tiny.model, device(2), trace_options(numerics, positions, positions)));
  audit::Trace trace(0, positions, positions);
  session.forward(0, ids, &trace);
  const auto path = scratch_file("traced.safetensors");
  trace.write(path);
  DumpFile dump;
  const auto file = checkpoint::SafetensorsFile::open(path);
  for (const checkpoint::TensorView& t : file.tensors())
    dump.tensors[t.name] = {t.dtype, t.shape, {t.bytes.begin(), t.bytes.end()}};
  const auto* const first = reinterpret_cast<const std::byte*>(ids.data());
  dump.tensors["input_ids"] = {DType::kI32, {positions}, {first, first + ids.size() * sizeof(int32_t)}};
  return dump;
}

}  // namespace fulgurite::test
