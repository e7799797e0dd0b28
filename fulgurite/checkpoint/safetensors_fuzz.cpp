// Any bytes are a header or an Error; and what is accepted lies inside the file and covers it.

#include <cstddef>
#include <cstdint>
#include <span>

#include "fulgurite/checkpoint/safetensors.h"
#include "fulgurite/core/assert.h"
#include "fulgurite/core/error.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::span<const std::byte> file = std::as_bytes(std::span(data, size));
  try {
    const auto header = fulgurite::checkpoint::parse_header(file, "fuzz");
    const std::byte* const end = file.data() + file.size();
    for (size_t i = 0; i < header.tensors.size(); ++i) {
      const auto& tensor = header.tensors[i];
      const std::byte* const next = i + 1 < header.tensors.size() ? header.tensors[i + 1].bytes.data() : end;
      FULGURITE_ASSERT(tensor.bytes.data() > file.data() && tensor.bytes.data() + tensor.bytes.size() == next,
                       "tensor {} leaves its place", i);
      FULGURITE_ASSERT(fulgurite::checkpoint::byte_size(tensor.dtype, tensor.shape, "fuzz") ==
                           static_cast<int64_t>(tensor.bytes.size()),
                       "tensor {} has {} bytes", i, tensor.bytes.size());
    }
  } catch (const fulgurite::Error&) {
  }
  return 0;
}
