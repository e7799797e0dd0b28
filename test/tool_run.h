#pragma once
// Runs the command as a user does: exit code, what it printed, what it complained of.

#include <sys/wait.h>

#include <cstdlib>
#include <string>

#include "test/paths.h"
#include "test/tiny_model.h"

namespace fulgurite::test {

struct ToolRun {
  int exit_code = -1;  // -1: it did not exit by itself
  std::string out, error;
};

inline ToolRun run_tool(const std::string& arguments) {
  const auto out = scratch_file("out"), error = scratch_file("error");
  const std::string command =
      fmt::format("'{}' {} >'{}' 2>'{}' </dev/null", kTool, arguments, out.string(), error.string());
  const int status = std::system(command.c_str());
  ToolRun run;
  if (WIFEXITED(status)) run.exit_code = WEXITSTATUS(status);
  run.out = checkpoint::MappedFile(out).text();
  run.error = checkpoint::MappedFile(error).text();
  return run;
}

}  // namespace fulgurite::test
