// Parts of a row, one an index, and rows that gather what their parts found. The key of the last one that is chosen is found
// bit by bit from the top: two launches a bit.

#include "fulgurite/cuda/generic.h"
#include "fulgurite/ops/largest_logits/largest_logits.h"

namespace fulgurite::largest_logits {
namespace {

constexpr int64_t kPart = 256;  // logits

Support supports(const Problem& problem) {
  const Target& target = problem.setting.target;
  if (target.kind != DeviceKind::kCuda || target.sm < 80)
    return Refusal{"target " + name(target) + ", takes a GPU from sm80 on"};
  return kReference.supports(problem);
}

// What parts and rows leave one another.
struct State {
  int64_t parts;
  uint32_t* largest;       // [rows, parts], then of the row in its first
  int32_t *above, *equal;  // [rows, parts]: counts, then what lies before the part
  double* weights;         // [rows, parts]
  uint32_t* least;         // [rows]: the key of the last one
  int32_t *found, *ties;   // [rows]: how many are chosen, and of keys equal to the last one
};

State state_of(const Problem& problem, cuda::Scratch& scratch) {
  const int64_t parts = (problem.vocabulary + kPart - 1) / kPart, all = problem.largest_rows * parts;
  State s{};
  s.parts = parts;
  s.largest = scratch.take<uint32_t>(all);
  s.above = scratch.take<int32_t>(all);
  s.equal = scratch.take<int32_t>(all);
  s.weights = scratch.take<double>(all);
  s.least = scratch.take<uint32_t>(problem.largest_rows);
  s.found = scratch.take<int32_t>(problem.largest_rows);
  s.ties = scratch.take<int32_t>(problem.largest_rows);
  return s;
}

// Calls visit(id, key) for the logits of part `index`.
template <class Visit>
FULGURITE_HOST_DEVICE void for_each_key(const Args& args, const State& s, int64_t index, const Visit& visit) {
  const int64_t row = index / s.parts, first = index % s.parts * kPart;
  const int64_t end = cuda::least(first + kPart, args.logits.extent[1]);
  for (int64_t i = first; i < end; ++i) visit(i, key_of(args.logits(row, i)));
}

// Index: a part.
struct Survey {
  Args args;
  State s;

  FULGURITE_HOST_DEVICE void operator()(int64_t index) const {
    uint32_t largest = 0;
    int32_t numbers = 0;
    for_each_key(args, s, index, [&](int64_t, uint32_t key) {
      if (key > largest) largest = key;
      if (key != 0) ++numbers;
    });
    s.largest[index] = largest;
    s.above[index] = numbers;
  }
};

// Index: a row.
struct Begin {
  Args args;
  State s;

  FULGURITE_HOST_DEVICE void operator()(int64_t row) const {
    uint32_t largest = 0;
    int32_t numbers = 0;
    for (int64_t part = row * s.parts; part < (row + 1) * s.parts; ++part) {
      if (s.largest[part] > largest) largest = s.largest[part];
      numbers += s.above[part];
    }
    const int64_t count = args.ids.extent[1];
    args.numbers(row) = numbers;
    s.found[row] = static_cast<int32_t>(cuda::least(numbers, count));
    s.least[row] = count == 1 ? largest : 0;
    s.largest[row * s.parts] = largest;
    for (int64_t i = s.found[row]; i < count; ++i) {
      args.ids(row, i) = -1;
      args.values(row, i) = 0.0f;
    }
  }
};

// Index: a part. Keys not below the last one so far with `bit` set.
struct CountAbove {
  Args args;
  State s;
  uint32_t bit;

  FULGURITE_HOST_DEVICE void operator()(int64_t index) const {
    const uint32_t least = s.least[index / s.parts] | bit;
    int32_t count = 0;
    for_each_key(args, s, index, [&](int64_t, uint32_t key) { count += key >= least ? 1 : 0; });
    s.above[index] = count;
  }
};

// Index: a row. Is the bit one of the last one's?
struct Narrow {
  State s;
  uint32_t bit;

  FULGURITE_HOST_DEVICE void operator()(int64_t row) const {
    int32_t count = 0;
    for (int64_t part = row * s.parts; part < (row + 1) * s.parts; ++part) count += s.above[part];
    if (count >= s.found[row]) s.least[row] |= bit;
  }
};

// Index: a part.
struct Weigh {
  Args args;
  State s;

  FULGURITE_HOST_DEVICE void operator()(int64_t index) const {
    const int64_t row = index / s.parts;
    const double temperature = args.temperatures(row);
    const float largest = logit_of(s.largest[row * s.parts]);
    int32_t above = 0, equal = 0;
    double sum = 0.0;
    for_each_key(args, s, index, [&](int64_t, uint32_t key) {
      above += key > s.least[row] ? 1 : 0;
      equal += key == s.least[row] ? 1 : 0;
      if (key != 0 && temperature > 0.0) sum += weight(logit_of(key), largest, temperature);
    });
    s.above[index] = above;
    s.equal[index] = equal;
    s.weights[index] = sum;
  }
};

// Index: a row. Counts become what lies before each part.
struct Place {
  Args args;
  State s;

  FULGURITE_HOST_DEVICE void operator()(int64_t row) const {
    int32_t above = 0, equal = 0;
    double total = 0.0;
    for (int64_t part = row * s.parts; part < (row + 1) * s.parts; ++part) {
      const int32_t a = s.above[part], e = s.equal[part];
      s.above[part] = above;
      s.equal[part] = equal;
      above += a;
      equal += e;
      total += s.weights[part];
    }
    s.ties[row] = s.found[row] - above;
    args.totals(row) = total;
  }
};

// Index: a part.
struct Write {
  Args args;
  State s;

  FULGURITE_HOST_DEVICE void operator()(int64_t index) const {
    const int64_t row = index / s.parts, ties = s.ties[row];
    int64_t equal = s.equal[index], at = s.above[index] + cuda::least(equal, ties);
    if (s.found[row] == 0) return;
    for_each_key(args, s, index, [&](int64_t id, uint32_t key) {
      if (key < s.least[row] || (key == s.least[row] && equal++ >= ties)) return;
      args.ids(row, at) = static_cast<int32_t>(id);
      args.values(row, at) = logit_of(key);
      ++at;
    });
  }
};

int64_t workspace_bytes(const Problem& problem, int) {
  cuda::Scratch scratch;
  state_of(problem, scratch);
  return scratch.used();
}

void run(const Problem& problem, const Args& args, const Lane& lane) {
  check(problem, args);
  cuda::Scratch scratch(lane);
  const State s = state_of(problem, scratch);
  const int64_t rows = args.logits.extent[0], parts = rows * s.parts;
  cuda::for_each(lane, parts, Survey{args, s});
  cuda::for_each(lane, rows, Begin{args, s});
  for (uint32_t bit = args.ids.extent[1] == 1 ? 0u : 1u << 31; bit != 0; bit >>= 1) {
    cuda::for_each(lane, parts, CountAbove{args, s, bit});
    cuda::for_each(lane, rows, Narrow{s, bit});
  }
  cuda::for_each(lane, parts, Weigh{args, s});
  cuda::for_each(lane, rows, Place{args, s});
  cuda::for_each(lane, parts, Write{args, s});
}

}  // namespace

const Implementation kCuda{"cuda", supports, workspace_bytes, run, DeviceKind::kCuda};

}  // namespace fulgurite::largest_logits
