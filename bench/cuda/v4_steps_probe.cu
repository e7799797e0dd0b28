// Holds DeepSeek-V4's own steps on Hopper against the references, as their audits judge, and times them.
//   v4_steps_probe check | index (the last part of it) | small (for memory checkers) | time
// Built by ./dev probes.

#include "bench/cuda/v4_steps_probe.h"

#include <map>

#include "fulgurite/cuda/quotient.h"
#include "fulgurite/ops/compressor/compressor_audit.h"
#include "fulgurite/ops/compressor/compressor_rules.h"
#include "fulgurite/ops/hyper_connection/hyper_connection_audit.h"
#include "fulgurite/ops/hyper_connection/hyper_connection_rules.h"

namespace fulgurite::probe {
namespace {

std::mutex mutex;
struct Count {
  int64_t outputs = 0, equal = 0, elements = 0;
  double share = 0.0;
};
std::map<std::string, Count> counts;

constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();

}  // namespace

void claim_together(bool holds, const std::string& what) {
  const std::lock_guard lock(mutex);
  claim(holds, what);
}

void judged(const audit::OpReport& report, const std::string& what) {
  const std::lock_guard lock(mutex);
  claim(report.within(), what + ": " + audit::describe(report));
  for (const audit::OutputReport& output : report.outputs) {
    Count& count = counts[output.name];
    const audit::Difference& d = output.difference;
    if (d.elements == 0) continue;
    ++count.outputs;
    count.equal += d.relative_l2 == 0.0 && d.mask_mismatches == 0;
    count.elements += d.elements;
    count.share = std::max(count.share, d.worst_share);
  }
}

void report_outputs(const char* what) {
  for (const auto& [name, count] : counts)
    std::printf("%s, %s: %lld outputs of %lld elements, %lld equal, worst %.3f of a bound\n", what,
                name.c_str(), static_cast<long long>(count.outputs), static_cast<long long>(count.elements),
                static_cast<long long>(count.equal), count.share);
  counts.clear();
  report_checks(what);
}

// --- quotients ---

namespace {

__global__ void differing_quotients(uint64_t seed, unsigned long long* differ) {
  for (int i = 0; i < 4096; ++i) {
    const uint64_t at = seed + (uint64_t{blockIdx.x} * blockDim.x + threadIdx.x) * 4096 + i;
    // Magnitudes from 2^-60 to 2^60, every fourth pair near one another.
    const auto number = [&](uint64_t which, int spread) {
      const uint32_t bits = hash(2 * at + which);
      const uint32_t exponent = 127 - spread + hash(which + 3 * at + 7) % (2 * spread + 1);
      return __uint_as_float(exponent << 23 | (bits & 0x7FFFFFu));
    };
    const int spread = i % 4 == 0 ? 59 : 1;
    const float x = number(0, spread), y = number(1, spread);
    if (cuda::moderate_quotient(x, y) != __fdiv_rn(x, y)) atomicAdd(differ, 1ull);
  }
}

}  // namespace

void check_quotients() {
  const Device<unsigned long long> differ(std::vector<unsigned long long>{0});
  for (uint64_t seed = 1; seed <= 16; ++seed) differing_quotients<<<1024, 256>>>(seed << 40, differ.data);
  MUST(cudaDeviceSynchronize());
  claim(differ.download()[0] == 0, text("%llu of 2^34 quotients differ", differ.download()[0]));
  report_checks("quotients");
}

// --- hyper_connection ---

namespace {

void hyper_connection_there(const hyper_connection::Problem& problem, const hyper_connection::Args& args,
                            const Lane&) {
  Twin& twin = *Twin::current;
  hyper_connection::Args there = args;
  twin.move(there.streams.data), twin.move(there.block.data), twin.move(there.post.data);
  twin.move(there.mix.data), twin.move(there.replaced.data), twin.move(there.fn.data);
  twin.move(there.base.data), twin.move(there.scale.data), twin.move(there.streams_out.data);
  twin.move(there.post_out.data), twin.move(there.mix_out.data), twin.move(there.collapsed.data);
  twin.upload();
  hyper_connection::kCudaHopper.run(problem, there,
                                    twin.lane(hyper_connection::kCudaHopper.workspace_bytes(problem, 1)));
  twin.download();
}
const hyper_connection::Implementation kHyperConnection{"there", hyper_connection::kCudaHopper.supports,
                                                        no_workspace<hyper_connection::Problem>,
                                                        hyper_connection_there};

enum class Reads { kStreams, kBlock, kReplaced };
enum class Spoiled { kNot, kNaN, kHuge, kZero };
struct HcCase {
  const char* numerics;
  int64_t tokens, hidden;
  hyper_connection::Kind kind;
  Reads reads;
  Spoiled spoiled;
  bool in_place;
};

struct HcBatch {
  Twin twin;
  hyper_connection::Problem problem;
  hyper_connection::Args args;
  explicit HcBatch(const HcCase& c)
      : twin(static_cast<size_t>((c.tokens + 1) * c.hidden * 4 * 20 + c.hidden * 4 * 4 * 26 + (1 << 16))),
        problem{cuda_setting(c.numerics), c.hidden} {
    const int64_t n = c.kind == hyper_connection::Kind::kHead ? 4 : 24, t = c.tokens, h = c.hidden;
    problem.kind = c.kind;
    problem.largest_batch = t;
    const DType type = problem.setting.numerics.activation == Activation::kFp32 ? DType::kF32 : DType::kBF16;
    Random random{static_cast<uint64_t>(t * 1000003 + h)};
    const auto streams = twin.tensor<3>(type, {t, 4, h});
    fill(streams, random);
    args.streams = streams;
    const auto block = twin.tensor<2>(type, {t, h});
    const auto post = twin.tensor<2>(DType::kF32, {t, 4});
    const auto mix = twin.tensor<3>(DType::kF32, {t, 4, 4});
    const auto fn = twin.tensor<2>(DType::kF32, {n, 4 * h});
    const auto base = twin.tensor<1>(DType::kF32, {n});
    const auto scale = twin.tensor<1>(DType::kF32, {n == 4 ? 1 : 3});
    fill(block, random), fill(post, random), fill(mix, random, 0.3f), fill(base, random), fill(scale, random);
    fill(fn, random, 1.0f / std::sqrt(static_cast<float>(4 * h)));
    if (c.reads == Reads::kBlock) {
      args.block = block;
      args.post = post.template as<float>();
      args.mix = mix.template as<float>();
    }
    if (c.reads == Reads::kReplaced) {
      const auto replaced = twin.tensor<2>(DType::kF32, {t, 4 * h});
      fill(replaced, random);
      args.replaced = replaced.template as<float>();
    }
    args.fn = fn.template as<float>();
    args.base = base.template as<float>();
    args.scale = scale.template as<float>();
    args.streams_out = c.in_place ? streams : twin.tensor<3>(type, {t, 4, h});
    args.post_out = (c.in_place ? post : twin.tensor<2>(DType::kF32, {t, 4})).template as<float>();
    args.mix_out = (c.in_place ? mix : twin.tensor<3>(DType::kF32, {t, 4, 4})).template as<float>();
    args.collapsed = c.in_place ? block : twin.tensor<2>(type, {t, h});
    spoil(c, streams, block);
  }
  template <class Streams, class Block>
  void spoil(const HcCase& c, const Streams& streams, const Block& block) {
    for (int64_t t = 0; t < c.tokens; t += 2) {
      const int64_t i = t * 7 % c.hidden;
      if (c.spoiled == Spoiled::kNaN && t % 4 == 0) store(block, kNaN, t, i);
      if (c.spoiled == Spoiled::kNaN && t % 4 == 2)
        store(streams, std::numeric_limits<float>::infinity(), t, int64_t{2}, i);
      for (int64_t k = 0; k < 4 * c.hidden; ++k) {
        if (c.spoiled == Spoiled::kHuge) store(streams, k % 2 == 0 ? 1e30f : -3e37f, t, k % 4, k / 4);
        if (c.spoiled == Spoiled::kZero) store(streams, k % 2 == 0 ? 0.0f : -0.0f, t, k % 4, k / 4);
      }
    }
  }
};

void check_hyper_connection(const HcCase& c) {
  HcBatch batch(c);
  Twin::current = &batch.twin;
  const std::string what =
      text("hyper_connection %s tokens=%d hidden=%d kind=%d reads=%d spoiled=%d in place=%d", c.numerics,
           int(c.tokens), int(c.hidden), int(c.kind), int(c.reads), int(c.spoiled), c.in_place);
  claim_together(!hyper_connection::kCudaHopper.supports(batch.problem), what + ": supported");
  judged(hyper_connection::judge(kHyperConnection, batch.problem, batch.args, {}), what);
}

void repeat_hyper_connection(int64_t tokens, int64_t hidden) {
  HcBatch batch(
      {"serving", tokens, hidden, hyper_connection::Kind::kLayer, Reads::kBlock, Spoiled::kNot, false});
  Twin::current = &batch.twin;
  hyper_connection_there(batch.problem, batch.args, {});
  const std::vector<std::byte> first = batch.twin.bytes();
  int differ = 0;
  for (int i = 0; i < 1000; ++i) {
    hyper_connection_there(batch.problem, batch.args, {});
    differ += batch.twin.bytes() != first;
  }
  claim_together(differ == 0,
                 text("hyper_connection tokens=%d: %d of 1,000 launches differ", int(tokens), differ));
}

// The first tokens of a batch have the bits of the same tokens alone.
void batch_hyper_connection(int64_t hidden) {
  const auto collapsed = [&](int64_t tokens) {
    HcBatch batch(
        {"serving", tokens, hidden, hyper_connection::Kind::kLayer, Reads::kBlock, Spoiled::kZero, false});
    Random random{5};  // of the token alone
    for (int64_t t = 0; t < tokens; ++t) {
      for (int64_t i = 0; i < 4 * hidden; ++i) {
        auto* const streams = const_cast<bf16*>(reinterpret_cast<const bf16*>(batch.args.streams.data));
        streams[t * 4 * hidden + i] = to_bf16(random.normal());
      }
      for (int64_t i = 0; i < hidden; ++i)
        const_cast<bf16*>(reinterpret_cast<const bf16*>(batch.args.block.data))[t * hidden + i] =
            to_bf16(random.normal());
      for (int64_t j = 0; j < 4; ++j) const_cast<float&>(batch.args.post(t, j)) = random.normal();
      for (int64_t j = 0; j < 16; ++j) const_cast<float&>(batch.args.mix(t, j / 4, j % 4)) = random.normal();
    }
    Random weights{77};
    for (int64_t i = 0; i < 24 * 4 * hidden; ++i)
      const_cast<float*>(batch.args.fn.data)[i] = weights.normal() * 0.01f;
    for (int64_t i = 0; i < 24; ++i) const_cast<float*>(batch.args.base.data)[i] = weights.normal();
    for (int64_t i = 0; i < 3; ++i) const_cast<float*>(batch.args.scale.data)[i] = weights.normal();
    Twin::current = &batch.twin;
    hyper_connection_there(batch.problem, batch.args, {});
    std::vector<float> values;
    for (int64_t i = 0; i < hidden; ++i) values.push_back(load(batch.args.collapsed, int64_t{0}, i));
    for (int64_t j = 0; j < 16; ++j) values.push_back(batch.args.mix_out(0, j / 4, j % 4));
    return values;
  };
  const std::vector<float> alone = collapsed(1);
  for (const int64_t tokens : {2, 9, 33, 130, 700})
    claim_together(collapsed(tokens) == alone,
                   text("hyper_connection: token 0 of %d is another", int(tokens)));
}

}  // namespace

void check_hyper_connections() {
  std::vector<HcCase> cases;
  using hyper_connection::Kind;
  for (const char* numerics : {"serving", "fp32", "serving,rsqrt=two_step"})
    for (const int64_t hidden : {8, 40, 256, 264, 4096, 7168})
      for (const int64_t tokens : {0, 1, 2, 7, 16, 130})
        for (const Kind kind : {Kind::kLayer, Kind::kHead})
          for (const Reads reads : {Reads::kStreams, Reads::kBlock, Reads::kReplaced}) {
            if (hidden > 300 && (tokens > 7 || (numerics[0] == 'f' && tokens > 1)) &&
                !(kind == Kind::kLayer && reads == Reads::kBlock && tokens == 16))
              continue;
            cases.push_back({numerics, tokens, hidden, kind, reads, Spoiled::kNot, false});
            if (reads == Reads::kBlock && numerics[0] == 's')
              cases.push_back({numerics, tokens, hidden, kind, reads, Spoiled::kNot, true});
          }
  for (const Spoiled spoiled : {Spoiled::kNaN, Spoiled::kHuge, Spoiled::kZero})
    for (const char* numerics : {"serving", "fp32"})
      cases.push_back({numerics, 9, 264, Kind::kLayer, Reads::kBlock, spoiled, false});
  cases.push_back({"serving", 600, 64, Kind::kLayer, Reads::kBlock, Spoiled::kNot, true});  // two chunks
  parallel(static_cast<int>(cases.size()), [&](int i) { check_hyper_connection(cases[size_t(i)]); });
  repeat_hyper_connection(3, 4096);
  repeat_hyper_connection(20, 256);
  batch_hyper_connection(4096);
  batch_hyper_connection(7168);
  report_outputs("hyper_connection");
}

// --- compressor ---

namespace {

void compressor_there(const compressor::Problem& problem, const compressor::Args& args, const Lane&) {
  Twin& twin = *Twin::current;
  compressor::Args there = args;
  PreparedMatrix wkv = *args.wkv, wgate = *args.wgate;
  for (PreparedMatrix* matrix : {&wkv, &wgate}) twin.move(std::get<View<const bf16, 2>>(matrix->as).data);
  there.wkv = &wkv, there.wgate = &wgate;
  twin.move(there.x.data), twin.move(there.ape.data), twin.move(there.norm.data),
      twin.move(there.places.data);
  twin.move(there.table.cosine.data), twin.move(there.table.sine.data), twin.move(there.state.data);
  twin.move(there.entries.blocks.data), twin.move(there.keys.keys.data), twin.move(there.keys.scales.data);
  twin.move(there.projected.data), twin.move(there.pooled.data);
  twin.upload();
  compressor::kCudaHopper.run(problem, there, twin.lane(compressor::kCudaHopper.workspace_bytes(problem, 1)));
  twin.download();
}
const compressor::Implementation kCompressor{"there", compressor::kCudaHopper.supports,
                                             no_workspace<compressor::Problem>, compressor_there};

struct CmpCase {
  const char* numerics;
  int64_t tokens, hidden, ratio, dim;
  compressor::Kind kind;
  int64_t sequences, first;  // the tokens are shared among the sequences; each begins at position `first`
  Spoiled spoiled = Spoiled::kNot;
  int64_t chunk = 0;  // largest_batch, where it is not the tokens
};

struct CmpBatch {
  Twin twin;
  compressor::Problem problem;
  compressor::Args args;
  PreparedMatrix wkv, wgate;
  explicit CmpBatch(const CmpCase& c)
      : twin(
            static_cast<size_t>((c.ratio == 4 ? 2 : 1) * c.dim *
                                    (c.hidden * 4 + c.tokens * 8 + c.ratio * 8 + c.ratio * 32 * c.sequences) +
                                c.tokens * (c.hidden * 2 + c.dim * 4 + 600) +
                                c.sequences * (c.first + c.tokens + 256) / c.ratio * (c.dim * 4 + 8) +
                                c.sequences * 64 * (c.dim * 4 + 64) * 2 + (c.first + 600) * 256 + (1 << 20))),
        problem{cuda_setting(c.numerics), c.hidden, c.ratio, c.dim, 64, 1e-6f, c.kind} {
    problem.wkv = problem.wgate = MatrixFormat{MatrixForm::kBF16, {}};
    problem.sequences = c.sequences;
    problem.entries = (c.first + c.tokens) / c.ratio + 1;
    problem.largest_batch = c.chunk != 0 ? c.chunk : c.tokens;
    const int64_t columns = width(problem), t = c.tokens;
    Random random{static_cast<uint64_t>(t * 1000003 + c.hidden + c.dim)};
    const auto x = twin.tensor<2>(DType::kBF16, {t, c.hidden});
    fill(x, random);
    if (c.spoiled == Spoiled::kNaN)
      for (int64_t i = 5; i < t; i += 29)
        store(x, i % 2 == 0 ? kNaN : std::numeric_limits<float>::infinity(), i, i % c.hidden);
    if (c.spoiled == Spoiled::kZero)
      for (int64_t i = 0; i < t * c.hidden; ++i) store(x, 0.0f, i / c.hidden, i % c.hidden);
    if (c.spoiled == Spoiled::kHuge)
      for (int64_t i = 0; i < t * c.hidden; i += 3) store(x, 1e4f, i / c.hidden, i % c.hidden);
    args.x = x;
    for (PreparedMatrix* matrix : {&wkv, &wgate}) {
      const auto w = twin.tensor<2>(DType::kBF16, {columns, c.hidden});
      fill(w, random, 1.0f / std::sqrt(static_cast<float>(c.hidden)));
      matrix->out = columns, matrix->in = c.hidden;
      matrix->as = View<const bf16, 2>(reinterpret_cast<const bf16*>(w.data), {columns, c.hidden});
    }
    args.wkv = &wkv, args.wgate = &wgate;
    const auto ape = twin.tensor<2>(DType::kF32, {c.ratio, columns});
    const auto norm = twin.tensor<1>(DType::kF32, {c.dim});
    fill(ape, random), fill(norm, random);
    args.ape = ape.template as<float>();
    args.norm = norm.template as<float>();
    TokenPlace* const places = twin.take<TokenPlace>(t);
    int64_t at = 0, most = 0;
    for (int64_t s = 0; s < c.sequences; ++s)
      for (int64_t i = t * s / c.sequences; i < t * (s + 1) / c.sequences; ++i) {
        const int64_t position = c.first + s % 2 + i - t * s / c.sequences;
        places[at++] = {static_cast<int32_t>((s + 1) % c.sequences), static_cast<int32_t>(position)};
        most = std::max(most, position);
      }
    problem.entries = most / c.ratio + 1;
    args.places = {places, {t}};
    const int64_t positions = most + 1;
    const auto cosine = twin.tensor<2>(DType::kF32, {positions, 32}),
               sine = twin.tensor<2>(DType::kF32, {positions, 32});
    fill(cosine, random), fill(sine, random);
    args.table = {cosine.template as<float>(), sine.template as<float>()};
    const auto state = twin.tensor<4>(DType::kF32, {c.sequences, state_rows(problem), 2, columns});
    fill(state, random);
    args.state = state.template as<float>();
    if (c.kind == compressor::Kind::kEntries) {
      const KvRow row = row_of(problem);
      const int64_t blocks = KvRow::blocks(problem.entries);
      args.entries = {row,
                      {twin.take<std::byte>(c.sequences * blocks * row.block_bytes()),
                       {c.sequences, blocks, row.block_bytes()}}};
    } else {
      args.keys.keys =
          twin.tensor<3>(index_operand(problem.setting.numerics), {c.sequences, problem.entries, c.dim});
      args.keys.scales = {twin.take<float>(c.sequences * problem.entries), {c.sequences, problem.entries}};
    }
    args.projected = twin.tensor<3>(DType::kF32, {t, 2, columns}).template as<float>();
    args.pooled = twin.tensor<2>(DType::kF32, {t, c.dim}).template as<float>();
  }
};

std::string name_of(const CmpCase& c) {
  return text("compressor %s tokens=%d hidden=%d ratio=%d dim=%d kind=%d sequences=%d first=%d spoiled=%d",
              c.numerics, int(c.tokens), int(c.hidden), int(c.ratio), int(c.dim), int(c.kind),
              int(c.sequences), int(c.first), int(c.spoiled));
}

void check_compressor(const CmpCase& c) {
  CmpBatch batch(c);
  Twin::current = &batch.twin;
  const Support refused = compressor::kCudaHopper.supports(batch.problem);
  claim_together(!refused, name_of(c) + ": " + (refused ? refused->reason : ""));
  if (refused) return;
  judged(compressor::judge(kCompressor, compressor::kCudaHopper.states(batch.problem), batch.args, {}),
         name_of(c));
}

void repeat_compressor(const CmpCase& c) {
  CmpBatch batch(c);
  Twin::current = &batch.twin;
  const std::vector<float> state(batch.args.state.data, batch.args.state.data + batch.args.state.size());
  const auto run = [&] {
    std::copy(state.begin(), state.end(), batch.args.state.data);
    compressor_there(batch.problem, batch.args, {});
    return batch.twin.bytes();
  };
  const std::vector<std::byte> first = run();
  int differ = 0;
  for (int i = 0; i < 1000; ++i) differ += run() != first;
  claim_together(differ == 0, name_of(c) + text(": %d of 1,000 launches differ", differ));
}

// One call, and the same tokens in calls of `piece`.
void chunked_compressor(CmpCase c, int64_t piece) {
  CmpBatch whole(c), parts(c);
  Twin::current = &whole.twin;
  compressor_there(whole.problem, whole.args, {});
  Twin::current = &parts.twin;
  for (int64_t first = 0; first < c.tokens; first += piece) {
    const int64_t count = std::min(piece, c.tokens - first);
    compressor::Args part = parts.args;
    part.x = parts.args.x.slice(0, first, count);
    part.places = parts.args.places.slice(0, first, count);
    part.projected = parts.args.projected.slice(0, first, count);
    part.pooled = parts.args.pooled.slice(0, first, count);
    compressor_there(parts.problem, part, {});
  }
  claim_together(whole.twin.bytes() == parts.twin.bytes(),
                 name_of(c) + text(": others in pieces of %d", int(piece)));
}

}  // namespace

void check_compressors() {
  using compressor::Kind;
  std::vector<CmpCase> cases;
  const char* const forms[] = {"serving", "serving,latent_cache=bf16",
                               "serving,latent_cache=bf16,kv_quant=none",
                               "serving,latent_cache=fp32,rsqrt=two_step"};
  const char* const keys[] = {"serving", "serving,index_quant=fp8",
                              "serving,index_quant=fp8,index_scale=fp32",
                              "serving,index_quant=none,hadamard=none",
                              "serving,index_quant=none,hadamard=both,indexer_rope=half_split"};
  for (const int64_t ratio : {4, 128})
    for (const int64_t tokens : {0, 1, 2, 7, 16, 17, 50, 130, 300}) {
      for (const int64_t sequences : {1, 3})
        for (const int64_t first : {0, 1, 2, 3, 6, 124, 127, 254})
          for (size_t f = 0; f < 5; ++f) {
            if (tokens < sequences || (f > 0 && (first % 3 != 0 || tokens > 50))) continue;
            if (f < 4) cases.push_back({forms[f], tokens, 256, ratio, 512, Kind::kEntries, sequences, first});
            cases.push_back({keys[f], tokens, 256, ratio, 128, Kind::kIndexKeys, sequences, first});
          }
    }
  for (const Spoiled spoiled : {Spoiled::kNaN, Spoiled::kZero, Spoiled::kHuge})
    for (const int64_t ratio : {4, 128}) {
      cases.push_back({"serving", 140, 256, ratio, 512, Kind::kEntries, 2, 3, spoiled});
      cases.push_back({"serving", 140, 256, ratio, 128, Kind::kIndexKeys, 2, 3, spoiled});
      cases.push_back({"serving,index_quant=fp8", 140, 256, ratio, 128, Kind::kIndexKeys, 2, 3, spoiled});
    }
  cases.push_back({"serving", 3, 4096, 4, 512, Kind::kEntries, 1, 2});
  cases.push_back({"serving", 16, 4096, 4, 128, Kind::kIndexKeys, 4, 2});
  cases.push_back({"serving", 24, 4096, 128, 512, Kind::kEntries, 3, 122});
  cases.push_back({"serving", 5, 7168, 4, 512, Kind::kEntries, 5, 3});
  cases.push_back({"serving", 60, 7168, 4, 128, Kind::kIndexKeys, 2, 5});
  cases.push_back({"serving", 300, 1024, 4, 128, Kind::kIndexKeys, 1, 1, Spoiled::kNot, 64});  // five chunks
  cases.push_back({"serving", 300, 256, 128, 512, Kind::kEntries, 2, 3, Spoiled::kNot, 70});
  cases.push_back({"serving", 300, 400, 4, 512, Kind::kEntries, 2, 3, Spoiled::kNot, 31});
  parallel(static_cast<int>(cases.size()),
           [&](int i) { check_compressor(cases[cases.size() - 1 - size_t(i)]); });
  repeat_compressor({"serving", 12, 4096, 4, 128, Kind::kIndexKeys, 2, 3});
  repeat_compressor({"serving", 140, 256, 128, 512, Kind::kEntries, 2, 3});
  for (const int64_t piece : {1, 3, 16, 33, 100})
    for (const int64_t ratio : {4, 128}) {
      chunked_compressor({"serving", 300, 1024, ratio, 128, Kind::kIndexKeys, 1, 1}, piece);
      chunked_compressor({"serving", 150, 256, ratio, 512, Kind::kEntries, 1, 0}, piece);
    }
  report_outputs("compressor");
}

// Every kernel of both, once.
void run_small() {
  using hyper_connection::Kind;
  check_hyper_connection({"serving", 7, 264, Kind::kLayer, Reads::kBlock, Spoiled::kNot, false});
  check_hyper_connection({"serving", 7, 264, Kind::kHead, Reads::kStreams, Spoiled::kNot, false});
  check_compressor({"serving", 17, 256, 4, 512, compressor::Kind::kEntries, 1, 3});
  check_compressor({"serving", 7, 256, 4, 128, compressor::Kind::kIndexKeys, 1, 3});
  check_compressor({"serving", 50, 256, 128, 512, compressor::Kind::kEntries, 3, 124});
  report_outputs("steps, small");
}

}  // namespace fulgurite::probe

int main(int count, char** words) {
  using namespace fulgurite::probe;
  const std::string verb = count > 1 ? words[1] : "check";
  if (verb == "check") {
    check_quotients();
    check_hyper_connections();
    check_compressors();
    check_index();
    return failed() != 0;
  }
  if (verb == "small") {
    run_small();
    run_small_index();
    return failed() != 0;
  }
  if (verb == "index") {
    check_index();
    return failed() != 0;
  }
  time_hyper_connections();
  time_compressors();
  time_index();
  return 0;
}
