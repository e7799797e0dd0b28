#pragma once
// Errors of the outside world: a file, a configuration, a request or the machine is wrong. Thrown at load,
// plan and tool time only; the message is one line that names the object, what was expected and what was
// found.

#include <fmt/format.h>

#include <stdexcept>
#include <string>
#include <utility>

namespace fulgurite {

enum class ErrorKind {
  kFile,     // bytes on disk: missing, truncated, malformed
  kConfig,   // config.json or tokenizer.json says something impossible or unknown
  kModel,    // tensors and configuration disagree
  kPlan,     // no implementation can do what is asked
  kMemory,   // the machine has not enough of it
  kDevice,   // a GPU: none, too old, or a kernel failed
  kRequest,  // the caller's input: ids, prompt, options
};

class Error : public std::runtime_error {
 public:
  Error(ErrorKind kind, const std::string& message) : std::runtime_error(message), kind_(kind) {}
  ErrorKind kind() const { return kind_; }

 private:
  ErrorKind kind_;
};

template <class... Parts>
[[noreturn]] void fail(ErrorKind kind, fmt::format_string<Parts...> format, Parts&&... parts) {
  throw Error(kind, fmt::format(format, std::forward<Parts>(parts)...));
}

// A name, key or text from a file, made fit to stand in a one-line message: control bytes and invalid UTF-8
// are escaped as \xNN, and anything longer than `limit` bytes is cut and ends in "...".
std::string printable(std::string_view text, size_t limit = 120);

}  // namespace fulgurite
