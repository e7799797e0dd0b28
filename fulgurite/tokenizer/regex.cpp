#include "fulgurite/tokenizer/regex.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include <algorithm>
#include <cstdint>

#include "fulgurite/core/error.h"

namespace fulgurite {
namespace {

struct Free {
  void operator()(pcre2_code* code) const { pcre2_code_free(code); }
  void operator()(pcre2_compile_context* context) const { pcre2_compile_context_free(context); }
  void operator()(pcre2_match_context* context) const { pcre2_match_context_free(context); }
  void operator()(pcre2_match_data* data) const { pcre2_match_data_free(data); }
};
template <class T>
using Owned = std::unique_ptr<T, Free>;

template <class T>
Owned<T> owned(T* made) {
  if (made == nullptr) throw std::bad_alloc();
  return Owned<T>(made);
}

// Ours are a few hundred bytes long, a few thousand with the newer code points written out, and nest twice.
constexpr size_t kLongestPattern = 64 * 1024;
constexpr uint32_t kDeepestNesting = 32;
// Steps that a search may take from one start, and memory for its way back, in KiB. The steps of a run of
// white space before something else are four for each character.
constexpr uint32_t kSteps = 100'000;
constexpr uint32_t kStepsPerByte = 64;
constexpr uint32_t kHeapKilobytes = 1024 * 1024;

// PCRE2 10.42 derives from (?=b)(?:ab|b)\S that a match holds two letters b: what it derives is left unused.
constexpr uint32_t kOptions = PCRE2_UTF | PCRE2_UCP | PCRE2_NEVER_BACKSLASH_C | PCRE2_NO_START_OPTIMIZE;

std::string message_of(int error) {
  PCRE2_UCHAR text[256] = {};
  pcre2_get_error_message(error, text, sizeof text);
  return reinterpret_cast<const char*>(text);
}

PCRE2_SPTR units(std::string_view text) { return reinterpret_cast<PCRE2_SPTR>(text.data()); }

}  // namespace

struct Regex::Compiled {
  Owned<pcre2_code> code;
  std::string what;
};

Regex::Regex(Regex&& other) noexcept = default;
Regex::~Regex() = default;

Regex::Regex(const std::string& pattern, const std::string& what) {
  const auto context = owned(pcre2_compile_context_create(nullptr));
  pcre2_set_max_pattern_length(context.get(), kLongestPattern);
  pcre2_set_parens_nest_limit(context.get(), kDeepestNesting);
  int error = 0;
  PCRE2_SIZE offset = 0;
  Owned<pcre2_code> code(
      pcre2_compile(units(pattern), pattern.size(), kOptions, &error, &offset, context.get()));
  if (!code)
    fail(ErrorKind::kConfig, "{}: \"{}\": {} at offset {}", what, printable(pattern), message_of(error),
         offset);
  uint32_t matches_empty = 0;
  pcre2_pattern_info(code.get(), PCRE2_INFO_MATCHEMPTY, &matches_empty);
  if (matches_empty != 0)
    fail(ErrorKind::kConfig, "{}: \"{}\": a pattern that matches the empty string is not supported", what,
         printable(pattern));
  compiled_ = std::make_unique<const Compiled>(Compiled{std::move(code), what});
}

// The state of a search, reused from piece to piece.
class Regex::Search {
 public:
  explicit Search(const Compiled& compiled)
      : compiled_(&compiled),
        context_(owned(pcre2_match_context_create(nullptr))),
        data_(owned(pcre2_match_data_create(1, nullptr))) {
    pcre2_set_heap_limit(context_.get(), kHeapKilobytes);
  }

  void set_limit(size_t bytes) {
    const uint64_t steps = kSteps + uint64_t{kStepsPerByte} * bytes;
    pcre2_set_match_limit(context_.get(), static_cast<uint32_t>(std::min<uint64_t>(steps, UINT32_MAX)));
  }

  bool find(std::string_view text, size_t from, uint32_t options) {
    const int found = pcre2_match(compiled_->code.get(), units(text), text.size(), from,
                                  PCRE2_NO_UTF_CHECK | options, data_.get(), context_.get());
    if (found < 0 && found != PCRE2_ERROR_NOMATCH)
      fail(ErrorKind::kRequest, "{}: a text of {} bytes cannot be searched: {}", compiled_->what, text.size(),
           message_of(found));
    return found >= 0;
  }
  size_t begin() const { return pcre2_get_ovector_pointer(data_.get())[0]; }
  size_t end() const { return pcre2_get_ovector_pointer(data_.get())[1]; }

 private:
  const Compiled* compiled_;
  Owned<pcre2_match_context> context_;
  Owned<pcre2_match_data> data_;
};

std::vector<std::string_view> Regex::cut(const std::vector<std::string_view>& pieces) const {
  Search search(*compiled_);
  std::vector<std::string_view> cut;
  for (const std::string_view piece : pieces) {
    search.set_limit(piece.size());
    size_t done = 0;
    while (done < piece.size() && search.find(piece, done, PCRE2_NOTEMPTY)) {
      if (search.begin() > done) cut.push_back(piece.substr(done, search.begin() - done));
      cut.push_back(piece.substr(search.begin(), search.end() - search.begin()));
      done = search.end();
    }
    if (done < piece.size()) cut.push_back(piece.substr(done));
  }
  return cut;
}

bool Regex::matches_at_start(std::string_view text) const {
  Search search(*compiled_);
  search.set_limit(text.size());
  return search.find(text, 0, PCRE2_ANCHORED);
}

}  // namespace fulgurite
