#pragma once
// The operands of a case, and the parts of it that are run alone: judged, or compared bit for bit with the whole.

#include <algorithm>
#include <cstring>
#include <span>

#include "bench/arena.h"
#include "bench/case.h"

namespace fulgurite::bench {

// The same elements in a part's output and in the case's: they must have the same bits, as no result may
// depend on the number of tokens or threads.
struct Twin {
  std::string output;
  std::span<const std::byte> part;
  std::span<const std::byte> whole;
};

// kNo: only run, for its twins. kInPlace: not run at all; its outputs are elements of the case's, which are judged
// once the case has run: of a row whose bits depend on how many tokens or outputs a call has.
enum class Judged { kNo, kYes, kInPlace };

template <class Problem, class Args>
struct Part {
  std::string name;  // "token 7"
  Problem problem;
  Args args;  // with outputs of its own
  std::vector<Twin> twins;
  Judged judged = Judged::kYes;
};

template <class Problem, class Args>
struct Operands {
  Arena arena;
  int64_t tokens = 0;
  Problem problem;
  Args args;
  Work work;  // its arithmetic follows from the row
  std::vector<Part<Problem, Args>> parts;
  std::vector<std::span<std::byte>> outputs;  // of args: overwritten with rubbish before they are compared
  std::function<void()> restore = [] {};      // an input that the operation overwrites
  // What else must hold, once the parts have run.
  std::function<Failure(const Implementation<Problem, Args>&, const Lane&)> also;

  const PreparedMatrix* keep(const PreparedMatrix& matrix) { return arena.object(matrix); }
};

// The tokens that are also run alone: the first, one in the middle and the last, which is the judged one.
inline std::vector<int64_t> sample_tokens(int64_t tokens) {
  if (tokens == 0) return {};
  if (tokens == 1) return {0};
  if (tokens == 2) return {0, 1};
  return {0, tokens / 2, tokens - 1};
}

// A GPU's latents and index keys lie in pages, as its plans keep them; DeepSeek-V4's together.
inline CachePages pages_for(const Request& request, Arena& arena, int64_t sequences, int64_t context) {
  const bool paged = request.setting.target.kind == DeviceKind::kCuda && request.shape.kv == 0;
  return paged ? arena.pages(sequences, context) : CachePages{};
}

inline constexpr int64_t kPrepareContext = 4096;  // of what writes cache rows, wherever they lie
// Multiplications that a reference does in well under a second.
inline constexpr int64_t kJudgedProducts = int64_t{1} << 25;

// Up to so many tokens are a batch that decodes, a sequence each, at the end of its context; more are the
// last tokens of one sequence.
inline constexpr int64_t kDecodeBatch = 16;
inline int64_t sequences_of(int64_t tokens) {
  return tokens <= kDecodeBatch ? std::max<int64_t>(tokens, 1) : 1;
}
inline TokenPlace place_of(int64_t token, int64_t tokens, int64_t context) {
  if (tokens <= kDecodeBatch) return {static_cast<int32_t>(token), static_cast<int32_t>(context - 1)};
  return {0, static_cast<int32_t>(context - tokens + token)};
}
inline View<TokenPlace, 1> places_of(Arena& arena, int64_t tokens, int64_t context) {
  std::vector<TokenPlace> places;
  for (int64_t token = 0; token < tokens; ++token) places.push_back(place_of(token, tokens, context));
  return arena.places(places);
}

// The bytes of the first `count` elements behind `tensor`'s first.
template <int Rank>
std::span<const std::byte> leading_bytes(const Tensor<Rank>& tensor, int64_t count) {
  return {tensor.data, static_cast<size_t>(count * tensor.element_bytes())};
}
template <int Rank>
std::span<std::byte> all_bytes(const Tensor<Rank>& contiguous) {
  return {contiguous.data, static_cast<size_t>(Arena::bytes_of(contiguous))};
}
// Of keys in pages with their scales.
inline std::span<std::byte> all_bytes(const IndexKeys& cache) {
  const Tensor<3>& keys = cache.keys;
  return {keys.data, static_cast<size_t>(keys.extent[0] * keys.stride[0] * keys.element_bytes())};
}

}  // namespace fulgurite::bench
