#pragma once
// The verbs of the command. Each adds its subcommand with its options, and sets `run` to what it does when
// chosen; run returns the exit code.

#include <CLI/CLI.hpp>
#include <functional>

namespace fulgurite::tool {

using Run = std::function<int()>;

void add_generate(CLI::App& app, Run& run);
void add_eval(CLI::App& app, Run& run);
void add_inspect(CLI::App& app, Run& run);
void add_plan(CLI::App& app, Run& run);
void add_trace(CLI::App& app, Run& run);
void add_compare(CLI::App& app, Run& run);
void add_audit(CLI::App& app, Run& run);
void add_bisect(CLI::App& app, Run& run);
void add_convert(CLI::App& app, Run& run);
void add_synth(CLI::App& app, Run& run);
void add_bench(CLI::App& app, Run& run);

}  // namespace fulgurite::tool
