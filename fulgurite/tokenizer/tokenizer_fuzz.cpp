// Any bytes are a tokenizer or an Error; and a tokenizer takes text and gives it back, unless a token strips
// white space.

#include <cstddef>
#include <cstdint>
#include <string_view>

#include "fulgurite/core/assert.h"
#include "fulgurite/core/error.h"
#include "fulgurite/tokenizer/tokenizer.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view file(reinterpret_cast<const char*>(data), size);
  try {
    const auto tokenizer = fulgurite::Tokenizer::parse(file, "fuzz");
    const std::string_view text = "The 1st caf\u00e9,\n  \u4e2d\u6587 \U0001F600a\u0301 <s>\tx";
    const auto ids = tokenizer.encode(text);
    const auto back = tokenizer.decode(ids);
    FULGURITE_ASSERT(back == text || back.size() < text.size(), "{} ids give {} bytes back", ids.size(),
                     back.size());
  } catch (const fulgurite::Error&) {
  }
  return 0;
}
