#pragma once
// The tiny checkpoint with other values in every tensor: same names, types and shapes.

#include "test/edited_checkpoint.h"

namespace fulgurite::test {

// A third of each tensor's elements change their sign; scales, which have none, are doubled.
inline void change_values(EditedCheckpoint& edited) {
  for (const checkpoint::TensorView& tensor : std::vector(edited.tensors)) {
    if (tensor.name.ends_with(".weight_scale_inv")) {
      for (float& scale : edited.values_of<float>(tensor.name)) scale *= 2.0f;
      continue;
    }
    const std::span<std::byte> bytes = edited.bytes_of(tensor.name);
    const auto width = static_cast<size_t>(bits(tensor.dtype) / 8);
    for (size_t last = width - 1; last < bytes.size(); last += 3 * width) bytes[last] ^= std::byte{0x80};
  }
}

struct OtherModel {
  explicit OtherModel(const std::string& directory)
      : checkpoint(checkpoint::open(directory)), model(model::bind(checkpoint)) {}
  OtherModel(const OtherModel&) = delete;
  OtherModel& operator=(const OtherModel&) = delete;
  checkpoint::Checkpoint checkpoint;
  model::Model model;
};

inline std::string directory_of_other_weights(EditedCheckpoint& edited) {
  change_values(edited);
  return edited.write();
}

}  // namespace fulgurite::test
