// config.json from anyone: a Config or an Error, nothing else.

#include <cstddef>
#include <cstdint>

#include "fulgurite/core/error.h"
#include "fulgurite/model/config.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  try {
    fulgurite::model::parse_config({reinterpret_cast<const char*>(data), size}, "config.json");
  } catch (const fulgurite::Error&) {
  }
  return 0;
}
