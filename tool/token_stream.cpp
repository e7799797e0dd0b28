#include "tool/token_stream.h"

#include <algorithm>

#include "fulgurite/core/utf8.h"

namespace fulgurite::tool {
namespace {

constexpr std::string_view kSeparator = "<|doc|>";

// Paragraphs are runs of lines between blank lines.
std::string join_paragraphs(const std::vector<std::string_view>& lines) {
  std::string text, paragraph;
  const auto close = [&] {
    if (!paragraph.empty()) text += paragraph + "\n\n";
    paragraph.clear();
  };
  for (const std::string_view line : lines) {
    if (line.empty())
      close();
    else
      (paragraph += paragraph.empty() ? "" : "\n") += line;
  }
  close();
  return text;
}

}  // namespace

std::vector<std::string> split_documents(std::string_view text) {
  if (text.starts_with("\xEF\xBB\xBF")) text.remove_prefix(3);  // a byte order mark is no text
  std::vector<std::string> documents;
  std::vector<std::string_view> lines;
  const auto close = [&] {
    if (std::string document = join_paragraphs(lines); !document.empty())
      documents.push_back(std::move(document));
    lines.clear();
  };
  while (!text.empty()) {
    const size_t end = std::min(text.find('\n'), text.size());
    std::string_view line = text.substr(0, end);
    if (line.ends_with('\r')) line.remove_suffix(1);
    text.remove_prefix(std::min(end + 1, text.size()));
    if (line == kSeparator)
      close();
    else
      lines.push_back(line);
  }
  close();
  return documents;
}

std::vector<int32_t> token_stream(std::string_view text, const std::string& what, const Tokenizer& tokenizer,
                                  const model::Config& config) {
  require_utf8(text, what);
  std::vector<int32_t> stream;
  for (const std::string& document : split_documents(text)) {
    const std::vector<int32_t> ids = tokenizer.encode(document);
    if (config.bos) stream.push_back(*config.bos);
    stream.insert(stream.end(), ids.begin(), ids.end());
    stream.push_back(config.eos.front());
  }
  return stream;
}

}  // namespace fulgurite::tool
