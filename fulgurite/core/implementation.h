#pragma once
// What a row of the catalog is: an implementation is data, a name and three plain functions. An operation has
// two kinds of input: Problem, known when the model is loaded, and Args, known when tokens arrive.

#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <optional>
#include <span>
#include <string>

#include "fulgurite/core/device.h"
#include "fulgurite/core/matrix.h"
#include "fulgurite/core/numerics.h"
#include "fulgurite/core/workers.h"

namespace fulgurite {

// Why an implementation cannot do a problem. Not an error: the plan keeps and prints it.
struct Refusal {
  std::string reason;
};
using Support = std::optional<Refusal>;  // nullopt: it can

// What every Problem says first: for which device and in which numerics.
struct Setting {
  Target target;
  Numerics numerics;
};

// Where an implementation runs: the threads it may use, or a GPU's stream, and the scratch memory that it asked
// for, which is the device's.
struct Lane {
  int threads = 1;
  Workers* workers = nullptr;  // as many threads; none: the caller does every thread's part
  std::span<std::byte>
      workspace;           // workspace_bytes(problem), 64-byte aligned, a GPU's 256-byte, contents undefined
  void* stream = nullptr;  // of a GPU
  bool waits = false;      // a GPU's call returns when its work is done: the host looks at it
};

template <class Problem, class Args>
struct Implementation {
  const char* name;
  // May this implementation do this problem on this device? The planner and the tests ask the same function.
  Support (*supports)(const Problem& problem);
  int64_t (*workspace_bytes)(const Problem& problem, int threads);
  // nullptr: its rule is known, and plans can be made with it, but this build has no kernel of it.
  void (*run)(const Problem& problem, const Args& args, const Lane& lane);
  DeviceKind device = DeviceKind::kCpu;  // where it runs
  // The form in which it reads a weight that is stored as problem.weight; none: as stored. A weight that is
  // in the form already stays as it is.
  MatrixFormat (*reads)(const Problem& problem) = nullptr;
  // The problem as this implementation solves it: mma and the order of its sums, so that a reference repeats its
  // bits, and forms of weights other than `reads`. None: as asked.
  Problem (*states)(const Problem& problem) = nullptr;
  std::string (*sums)(const Problem& problem) = nullptr;  // the same, for a plan's reader
};

// A kernel that builds for other GPUs than Hopper, or for none, do not have.
#if defined(FULGURITE_HOPPER)
#define FULGURITE_KERNEL(run) run
#else
#define FULGURITE_KERNEL(run) nullptr
#endif

// The refusal of the first knob that has a value outside its list, if any.
template <class Knob>
Support takes(Knob value, std::initializer_list<Knob> allowed) {
  std::string list;
  for (const Knob knob : allowed) {
    if (knob == value) return std::nullopt;
    list += (list.empty() ? "" : " or ") + std::string(value_name(knob));
  }
  return Refusal{std::string(knob_name(value)) + " = " + std::string(value_name(value)) + ", takes " + list};
}
Support first_refusal(std::initializer_list<Support> rules);

// Only GPUs of this compute capability, 90 for 9.0.
Support takes_sm(const Target& target, int sm);

// No scratch memory.
template <class Problem>
int64_t no_workspace(const Problem&, int) {
  return 0;
}

}  // namespace fulgurite
