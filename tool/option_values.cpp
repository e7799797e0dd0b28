#include "tool/option_values.h"

#include <fmt/format.h>

#include <charconv>
#include <cstdio>
#include <functional>
#include <limits>

#include "fulgurite/core/error.h"
#include "fulgurite/core/numerics.h"
#include "fulgurite/plan/demand.h"

namespace fulgurite::tool {
namespace {

template <class Integer>
Integer parse(const std::string& text, Integer low, Integer high) {
  Integer value = 0;
  const char* const end = text.data() + text.size();
  const auto read = std::from_chars(text.data(), end, value);
  if (read.ec != std::errc() || read.ptr != end || value < low || value > high)
    fail(ErrorKind::kRequest, "expected a whole number from {} to {}, found \"{}\"", low, high,
         printable(text, 80));
  return value;
}

// What `body` complains of is what the validator does.
CLI::Validator validator(const std::function<void(std::string&)>& body, const std::string& description) {
  const auto complaint = [body](std::string& text) -> std::string {
    try {
      body(text);
    } catch (const Error& error) {
      return error.what();
    }
    return "";
  };
  return {complaint, description};
}

template <class Integer>
CLI::Validator whole(Integer low, Integer high, const std::string& description) {
  return validator([=](std::string& text) { text = fmt::format("{}", parse(text, low, high)); }, description);
}

}  // namespace

int64_t parse_integer(const std::string& text, int64_t low, int64_t high) { return parse(text, low, high); }

CLI::Validator integer(int64_t low, int64_t high) {
  return whole(low, high, fmt::format("{}..{}", low, high));
}

CLI::Validator seed() { return whole(uint64_t{0}, std::numeric_limits<uint64_t>::max(), ""); }

CLI::Validator number(double low, double high, Low kind) {
  const std::string range = fmt::format("{}{:g}, {:g}]", kind == Low::kIncluded ? '[' : '(', low, high);
  const auto check = [=](const std::string& text) {
    double value = 0.0;
    const char* const end = text.data() + text.size();
    const auto read = std::from_chars(text.data(), end, value);
    const bool inside = (kind == Low::kIncluded ? value >= low : value > low) && value <= high;  // NaN: no
    if (read.ec != std::errc() || read.ptr != end || !inside)
      fail(ErrorKind::kRequest, "expected a number in {}, found \"{}\"", range, printable(text, 80));
  };
  return validator(check, range);
}

CLI::Validator given() {
  return validator(
      [](const std::string& text) {
        if (text.empty()) fail(ErrorKind::kRequest, "expected a value, found none");
      },
      "");
}

CLI::Validator numerics() {
  return validator(
      [](const std::string& text) {
        try {
          parse_numerics(text);
        } catch (const Error& error) {  // of which the option's name says the beginning
          const std::string_view what = error.what(), prefix = "numerics: ";
          fail(error.kind(), "{}", what.substr(what.starts_with(prefix) ? prefix.size() : 0));
        }
      },
      "");
}

CLI::Validator file_and_tensor() {
  return validator(
      [](const std::string& text) {
        const size_t colon = text.rfind(':');
        if (colon == std::string::npos || colon == 0 || colon + 1 == text.size())
          fail(ErrorKind::kRequest, "expected FILE.safetensors:TENSOR, found \"{}\"", printable(text, 80));
      },
      "");
}

CLI::Validator demand() {
  return validator([](const std::string& text) { plan::parse_demand(plan::DemandKind::kRequire, text); }, "");
}

CLI::Validator target() {
  return validator([](const std::string& text) { target_named(text); }, "");
}

void note_threads(int64_t threads, const Device& device) {
  if (threads > device.threads)
    fmt::print(stderr,
               "{} threads on {} processor(s): more threads than processors only wait for each other\n",
               threads, device.threads);
}

}  // namespace fulgurite::tool
