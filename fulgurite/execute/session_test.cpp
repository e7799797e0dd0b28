#include "fulgurite/execute/session.h"

#include <gtest/gtest.h>

#include "test/op_test.h"
#include "test/tiny_model.h"

namespace fulgurite {
namespace {

TEST(session, a_request_that_cannot_be_met_changes_nothing) {
  const test::TinyModel tiny;
  plan::Options options;
  options.context = 10;
  options.sequences = 2;
  options.chunk_tokens = 8;
  execute::Session session(tiny.model, plan::make(tiny.model, test::device(1), options));
  const std::vector<int32_t> ids{0, 564, 716, 435, 1011, 364, 262, 1626, 281};
  const auto refusal = [&](std::vector<execute::Chunk> chunks) {
    return test::message_of([&] { session.forward(chunks); });
  };
  const std::span<const int32_t> all(ids);
  const std::vector<int32_t> beyond{5, 2048}, negative{-1};
  EXPECT_EQ(refusal({}), "a pass takes 1 to 8 tokens (planned), found 0");
  EXPECT_EQ(refusal({{0, all}}), "a pass takes 1 to 8 tokens (planned), found 9");
  EXPECT_EQ(refusal({{2, all.first(1)}}), "sequence 2: expected one of 0 to 1");
  EXPECT_EQ(refusal({{0, all.first(1)}, {0, all.first(1)}}), "sequence 0: stands in two chunks of one pass");
  EXPECT_EQ(refusal({{0, all.first(2)}, {1, {}}}), "sequence 1: expected at least one token, found none");
  EXPECT_EQ(refusal({{0, all.first(2)}, {1, beyond}}),
            "sequence 1: token id 2048 is outside the vocabulary of 2048");
  EXPECT_EQ(refusal({{0, negative}}), "sequence 0: token id -1 is outside the vocabulary of 2048");
  EXPECT_EQ(session.length(0), 0);
  session.forward(0, all.first(8));
  EXPECT_EQ(refusal({{0, all.first(3)}}),
            "sequence 0: 8 positions and 3 tokens more exceed the context of 10");
  EXPECT_EQ(session.length(0), 8);
  EXPECT_EQ(test::message_of([&] { session.reset(2); }), "sequence 2: expected one of 0 to 1");
  EXPECT_EQ(test::message_of([&] { session.length(-1); }), "sequence -1: expected one of 0 to 1");
}

// Carries calls out, and throws in the place of one of them.
class Stumbling : public plan::Conductor {
 public:
  explicit Stumbling(int calls) : left_(calls) {}
  void run(const plan::AnyCall& call) override {
    if (left_-- == 0) fail(ErrorKind::kDevice, "stumbled");
    std::visit([](const auto* one) { one->run(); }, call);
  }

 private:
  int left_;
};

TEST(session, a_pass_that_stumbles_resets_its_sequences) {
  for (const std::string& directory : {test::kTinyV32, test::kTinyV4}) {
    const test::TinyModel tiny(directory);
    plan::Options options;
    options.context = 16;
    options.chunk_tokens = 8;
    execute::Session steady(tiny.model, plan::make(tiny.model, test::device(1), options));
    execute::Session session(tiny.model, plan::make(tiny.model, test::device(1), options));
    const std::vector<int32_t> ids{0, 564, 716, 435, 1011, 364, 262, 1626};
    for (const int calls : {0, 7, 30}) {
      session.forward(0, std::span(ids).first(3));
      Stumbling conductor(calls);
      EXPECT_EQ(test::message_of([&] { session.forward(0, std::span(ids).subspan(3), nullptr, &conductor); }),
                "stumbled");
      EXPECT_EQ(session.length(0), 0);
    }
    const View<const float, 2> expected = steady.forward(0, ids), found = session.forward(0, ids);
    EXPECT_TRUE(
        std::equal(found.data, found.data + found.size(), expected.data, expected.data + expected.size()));
  }
}

}  // namespace
}  // namespace fulgurite
