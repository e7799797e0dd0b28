// The command `fulgurite`: turns an Error into one line and an exit code (0 ok, 1 failed, 2 usage).

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <csignal>
#include <cstdio>
#include <exception>
#include <iostream>
#include <new>

#include "fulgurite/core/error.h"
#include "tool/verbs.h"

namespace {

constexpr int kFailed = 1, kUsage = 2;

int complain(const std::string& what, int code) {
  std::fprintf(stderr, "fulgurite: %s\n", what.c_str());
  return code;
}

// What was printed has to arrive: `code`, unless stdout took less.
int finished(int code) {
  std::cout.flush();
  if (std::fflush(stdout) != 0 || std::ferror(stdout) != 0 || !std::cout)
    return complain("stdout: not everything could be written", kFailed);
  return code;
}

std::vector<std::string> verbs_of(const CLI::App& app) {
  std::vector<std::string> verbs;
  for (const CLI::App* const verb : app.get_subcommands({})) verbs.push_back(verb->get_name());
  return verbs;
}

// Does a word stand where a verb should, that is none?
bool names_no_verb(const CLI::App& app, int argc, char** argv) {
  if (argc < 2 || argv[1][0] == '-') return false;
  const std::vector<std::string> verbs = verbs_of(app);
  return std::ranges::find(verbs, argv[1]) == verbs.end();
}

int refuse_verb(const CLI::App& app, const char* word) {
  return complain(fmt::format("no verb \"{}\"; there are {}", fulgurite::printable(word, 80),
                              fmt::join(verbs_of(app), ", ")),
                  kUsage);
}

int run_verb(const fulgurite::tool::Run& run) {
  try {
    return finished(run());
  } catch (const fulgurite::Error& error) {
    return complain(error.what(), kFailed);
  } catch (const std::bad_alloc&) {
    return complain("the system gives no more memory", kFailed);
  } catch (const std::exception& error) {
    // A print that failed has thrown in the system's words.
    return std::ferror(stdout) != 0 ? finished(kFailed) : complain(error.what(), kFailed);
  }
}

}  // namespace

int main(int argc, char** argv) {
  std::signal(SIGXFSZ, SIG_IGN);  // a file too large is an error of write(), with a line, and not the end
  CLI::App app(
      "Inference for models with DeepSeek Sparse Attention: exact, deterministic, every choice printed.",
      "fulgurite");
  app.set_version_flag("--version", "fulgurite " FULGURITE_VERSION);
  app.require_subcommand(1);
  app.footer("Exit codes: 0 ok, 1 failed, 2 usage. 'fulgurite VERB --help' explains a verb.");
  fulgurite::tool::Run run;
  fulgurite::tool::add_generate(app, run);
  fulgurite::tool::add_eval(app, run);
  fulgurite::tool::add_inspect(app, run);
  fulgurite::tool::add_plan(app, run);
  fulgurite::tool::add_trace(app, run);
  fulgurite::tool::add_compare(app, run);
  fulgurite::tool::add_audit(app, run);
  fulgurite::tool::add_bisect(app, run);
  fulgurite::tool::add_convert(app, run);
  fulgurite::tool::add_synth(app, run);
  fulgurite::tool::add_bench(app, run);
  if (names_no_verb(app, argc, argv)) return refuse_verb(app, argv[1]);
  try {
    app.parse(argc, argv);
  } catch (const CLI::Success& asked) {  // --help, --version
    app.exit(asked);
    return finished(0);
  } catch (const CLI::ParseError& error) {
    return complain(fulgurite::printable(error.what(), 400), kUsage);
  }
  return run_verb(run);
}
