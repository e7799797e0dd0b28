// The shortest useful program: a prompt goes on for 32 tokens, the most probable one each time.
//
//   generate MODEL "A prompt"

#include <fulgurite/fulgurite.h>

#include <cstdio>
#include <vector>

int main(int argc, char** argv) try {
  if (argc != 3) {
    std::fprintf(stderr, "usage: generate MODEL PROMPT\n");
    return 2;
  }
  const auto checkpoint = fulgurite::checkpoint::open(argv[1]);
  const auto model = fulgurite::model::bind(checkpoint);
  const auto tokenizer = fulgurite::Tokenizer::parse(checkpoint.tokenizer_text(), "tokenizer.json");
  std::vector<int32_t> ids = tokenizer.encode(argv[2]);
  if (model.config.bos) ids.insert(ids.begin(), *model.config.bos);

  fulgurite::plan::Options options;
  options.context = static_cast<int64_t>(ids.size()) + 32;
  options.chunk_tokens = static_cast<int64_t>(ids.size());  // the prompt in one pass
  fulgurite::execute::Session session(model,
                                      fulgurite::plan::make(model, fulgurite::cpu::machine(), options));

  auto logits = session.forward(0, ids);
  for (int i = 0; i < 32; ++i) {
    const int32_t id = fulgurite::execute::greedy(logits[0]);
    ids.push_back(id);
    logits = session.forward(0, {&id, 1});
  }
  std::printf("%s\n", tokenizer.decode(ids, fulgurite::SpecialTokens::kSkip).c_str());
} catch (const fulgurite::Error& error) {
  std::fprintf(stderr, "%s\n", error.what());
  return 1;
}
