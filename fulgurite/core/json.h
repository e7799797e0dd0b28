#pragma once
// Strict JSON for the files of a checkpoint: a key that stands twice in one object, text after the value,
// invalid UTF-8 and nesting deeper than 64 are errors. And typed reading of an object's fields, with messages
// that name file and key.

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "fulgurite/core/error.h"

namespace fulgurite {

using Json = nlohmann::json;

// `what` names the text in messages ("models/x/config.json"). Throws Error{kind}.
Json parse_json(std::string_view text, const std::string& what, ErrorKind kind);

// The fields of one object. Every getter throws Error{kConfig}:
// `WHAT: "key": expected an integer in [1, 65536], found "a"`.
class Fields {
 public:
  Fields(const Json& object, std::string what);

  bool has(std::string_view key) const;  // present and not null
  int64_t integer(std::string_view key, int64_t low, int64_t high) const;
  double number(std::string_view key, double low, double high) const;
  std::string text(std::string_view key) const;
  bool boolean(std::string_view key) const;
  Fields object(std::string_view key) const;
  const Json& value(std::string_view key) const;  // required, any type
  std::vector<std::string> keys() const;
  const std::string& what() const { return what_; }

  [[noreturn]] void wrong(std::string_view key, std::string_view expected) const;

 private:
  const Json* object_;
  std::string what_;
};

}  // namespace fulgurite
