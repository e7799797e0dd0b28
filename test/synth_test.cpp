// `fulgurite synth`, as a user runs it.

#include <gtest/gtest.h>

#include <filesystem>

#include "fulgurite/checkpoint/mapped_file.h"
#include "test/paths.h"
#include "test/tool_run.h"

namespace fulgurite {
namespace {

namespace fs = std::filesystem;

const std::string kConfig = test::kTinyV32 + "/config.json";

// A directory that does not exist yet, and does not any more afterwards.
class NewDirectory {
 public:
  explicit NewDirectory(const std::string& name) : path_(test::scratch_file(name)) { fs::remove_all(path_); }
  ~NewDirectory() { fs::remove_all(path_); }
  std::string quoted() const { return "'" + path_.string() + "'"; }
  const fs::path& path() const { return path_; }
  std::string text(const std::string& file) const {
    return std::string(checkpoint::MappedFile(path_ / file).text());
  }

 private:
  fs::path path_;
};

TEST(synth, writes_a_checkpoint_that_can_be_planned) {
  const NewDirectory out("synth");
  const test::ToolRun run = test::run_tool("synth " + kConfig + " --layers 2 --out " + out.quoted());
  ASSERT_EQ(run.exit_code, 0) << run.error;
  EXPECT_NE(run.error.find(" bytes ("), std::string::npos) << run.error;
  EXPECT_NE(run.error.find("written "), std::string::npos) << run.error;
  EXPECT_EQ(test::run_tool("plan " + out.quoted()).exit_code, 0);
  const test::ToolRun inspect = test::run_tool("inspect " + out.quoted());
  EXPECT_NE(inspect.out.find("2 layers (1 dense)"), std::string::npos) << inspect.out;
}

TEST(synth, the_seed_decides_the_bytes_and_the_threads_do_not) {
  const NewDirectory a("synth-a"), b("synth-b"), c("synth-c");
  const std::string verb = "synth " + kConfig + " --layers 1 --out ";
  ASSERT_EQ(test::run_tool(verb + a.quoted() + " --seed 5 --threads 1").exit_code, 0);
  ASSERT_EQ(test::run_tool(verb + b.quoted() + " --seed 5 --threads 3").exit_code, 0);
  ASSERT_EQ(test::run_tool(verb + c.quoted() + " --seed 6").exit_code, 0);
  const std::string shard = "model-00001-of-00001.safetensors";
  EXPECT_TRUE(a.text(shard) == b.text(shard));
  EXPECT_FALSE(a.text(shard) == c.text(shard));
}

TEST(synth, complains_in_one_line) {
  const NewDirectory out("synth-bad");
  const auto error = [&](const std::string& arguments) {
    const test::ToolRun run = test::run_tool("synth " + arguments + " --out " + out.quoted());
    EXPECT_EQ(run.exit_code, 1);
    return run.error;
  };
  EXPECT_NE(error("/no/such/config.json --layers 1").find("/no/such/config.json"), std::string::npos);
  EXPECT_EQ(test::run_tool("synth " + kConfig + " --out " + out.quoted()).exit_code, 2);
}

// 300 layers are 2 GB: more than is written in a fifth of a second.
TEST(synth, ended_by_a_signal_it_leaves_nothing) {
  for (const char* const signal : {"INT", "TERM"}) {
    const NewDirectory out("synth-ended");
    if (fs::space(out.path().parent_path()).available < int64_t{4} << 30) GTEST_SKIP() << "no room";
    const std::string command = fmt::format(
        "timeout --foreground -s {} 0.2 '{}' synth {} --layers 300 --dense 0 --out '{}' >/dev/null 2>&1",
        signal, test::kTool, kConfig, (out.path() / "a").string());
    EXPECT_EQ(WEXITSTATUS(std::system(command.c_str())), 124) << "it was to be ended";
    EXPECT_FALSE(fs::exists(out.path())) << signal;
  }
}

}  // namespace
}  // namespace fulgurite
