#pragma once
// What every verb that runs a model asks for, and the steps from a directory to a session.

#include <CLI/CLI.hpp>
#include <string>
#include <vector>

#include "fulgurite/fulgurite.h"

namespace fulgurite::tool {

struct ModelOptions {
  std::string directory;
  std::string device = "cpu";  // or "cuda"
  int threads = 0;             // 0: every processor that the process may use
  bool references = false;     // plan the references only
  bool eager = false;          // no recorded passes
  std::string numerics = "serving";
  std::string activation;                    // "": as numerics says
  std::vector<std::string> require, forbid;  // OP:IMPL
  std::string profile;                       // an engine's numerics
};

void add_model(CLI::App& verb, ModelOptions& options);  // MODEL alone
// --device, --numerics, --activation, --threads, --references, --eager, --require, --forbid
void add_execution(CLI::App& verb, ModelOptions& options);
// --activation, which joins `numerics` once all options are read.
void add_activation(CLI::App& verb, std::string& activation, std::string& numerics);

// --profile, in the place of --numerics; after add_execution.
void add_profile(CLI::App& verb, ModelOptions& options);
// `options` with the numerics of its profile, if it names one.
ModelOptions with_profile(ModelOptions options, const model::Config& config);

Numerics numerics_of(const ModelOptions& options);

Device device_for(const ModelOptions& options);

// The checkpoint and the model that views it.
struct LoadedModel {
  checkpoint::Checkpoint checkpoint;
  model::Model model;
};
LoadedModel load(const ModelOptions& options);
Tokenizer load_tokenizer(const LoadedModel& loaded);

// `options` with the numerics, candidates and demands that the command line asks for.
plan::Options plan_options(const ModelOptions& model_options, plan::Options options);
// With these, planned for device_for().
plan::Plan make_plan(const LoadedModel& loaded, const ModelOptions& model_options, plan::Options options);

// A line on stderr that names the operations for which the numerics leave the references alone.
void note_references(const plan::Plan& plan);

// The whole of a file as text. Throws Error{kFile}.
std::string read_text(const std::string& path);

// FILE:TENSOR, one-dimensional I32: token ids. Throws Error{kRequest}.
std::vector<int32_t> read_ids(const std::string& source);

double seconds_since_start();

}  // namespace fulgurite::tool
