#pragma once
// The tiny model in other forms of the checkpoint, and what it computes.

#include <gtest/gtest.h>

#include "test/tool_run.h"

namespace fulgurite::test {

constexpr int64_t kFormPositions = 160;  // more than index_topk: the selection has to choose

// The plan that traces are made by.
inline plan::Plan form_plan(const model::Model& model, const Numerics& numerics) {
  return plan::make(model, device(2), trace_options(numerics, kFormPositions, kFormPositions));
}

// Bytes of the trace file of a pass.
inline std::string form_trace(const std::filesystem::path& directory,
                              const Numerics& numerics = Numerics::fp32()) {
  const auto checkpoint = checkpoint::open(directory);
  const model::Model model = model::bind(checkpoint);
  execute::Session session(model, form_plan(model, numerics));
  audit::Trace trace(0, kFormPositions, 8);
  const std::vector<int32_t> ids = golden_ids(0);
  session.forward(0, std::span(ids).first(kFormPositions), &trace);
  const std::filesystem::path file = scratch_file("form.trace");
  trace.write(file);
  return std::string(checkpoint::MappedFile(file).text());
}

// A checkpoint in another form, made by the tool; gone with this object.
class Converted {
 public:
  Converted(const std::string& from, const std::string& form, const std::string& options = "")
      : directory_(scratch_file("converted_" + form)) {
    std::filesystem::remove_all(directory_);
    const ToolRun run =
        run_tool("convert " + from + " " + directory_.string() + " --form " + form + " " + options);
    EXPECT_EQ(run.exit_code, 0) << run.error;
  }
  Converted(const Converted&) = delete;
  Converted& operator=(const Converted&) = delete;
  ~Converted() { std::filesystem::remove_all(directory_); }
  const std::filesystem::path& path() const { return directory_; }

 private:
  std::filesystem::path directory_;
};

}  // namespace fulgurite::test
