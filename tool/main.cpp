// The command `fulgurite`: turns an Error into one line and an exit code (0 ok, 1 failed, 2 usage).

#include <csignal>
#include <cstdio>
#include <exception>
#include <new>

#include "fulgurite/core/error.h"
#include "tool/verbs.h"

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
  fulgurite::tool::add_convert(app, run);
  fulgurite::tool::add_synth(app, run);
  fulgurite::tool::add_bench(app, run);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : 2;
  }
  try {
    const int code = run();
    if (std::fflush(stdout) != 0 || std::ferror(stdout) != 0)
      fulgurite::fail(fulgurite::ErrorKind::kFile, "stdout: not everything could be written");
    return code;
  } catch (const fulgurite::Error& error) {
    std::fprintf(stderr, "fulgurite: %s\n", error.what());
  } catch (const std::bad_alloc&) {
    std::fprintf(stderr, "fulgurite: the system gives no more memory\n");
  } catch (const std::exception& error) {
    std::fprintf(stderr, "fulgurite: %s\n", error.what());
  }
  return 1;
}
