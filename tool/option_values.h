#pragma once
// What may stand as the value of an option. Anything else is a usage error (exit code 2) of one short line,
// known before anything is read or run.

#include <CLI/CLI.hpp>
#include <cstdint>
#include <string>

#include "fulgurite/core/device.h"

namespace fulgurite::tool {

// More only wait for each other, on any machine.
inline constexpr int64_t kMostThreads = 1024;

// A whole number of `low` to `high` in decimal digits: 010 is ten, and 0x3 is no number.
// Throws Error{kRequest}, as the validators below report it.
int64_t parse_integer(const std::string& text, int64_t low, int64_t high);

// Validators, for Option::transform: an integer is handed on without leading zeros, which CLI11 takes for C.
CLI::Validator integer(int64_t low, int64_t high);
CLI::Validator seed();  // a uint64_t

enum class Low { kIncluded, kExcluded };
CLI::Validator number(double low, double high, Low kind = Low::kIncluded);

CLI::Validator given();            // an empty text is no value
CLI::Validator numerics();         // PRESET[,knob=value...]
CLI::Validator file_and_tensor();  // FILE.safetensors:TENSOR
CLI::Validator demand();           // OP:IMPL
CLI::Validator target();           // a target by name

// A line on stderr if that is more than the device has processors for this process.
void note_threads(int64_t threads, const Device& device);

}  // namespace fulgurite::tool
