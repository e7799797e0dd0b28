// Holds the small steps' fast rows against the references, bit for bit, and times them.
//   probe check | probe experts | probe same (1,000 launches of each) | probe small (for memory checkers) | probe time | probe time_experts
// ./dev probes builds it.

#include "bench/cuda/steps_probe.h"

#include "fulgurite/core/error.h"
#include "fulgurite/ops/embedding/embedding.h"
#include "fulgurite/ops/latent_prepare/latent_prepare.h"
#include "fulgurite/ops/norm/norm.h"
#include "fulgurite/ops/rotary/rotary.h"

namespace fulgurite::probe {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity(),
                kNaN = std::numeric_limits<float>::quiet_NaN();

DType type_of(const Setting& setting) {
  return setting.numerics.activation == Activation::kFp32 ? DType::kF32 : DType::kBF16;
}

// Rows that are not ordinary: by their number.
void spoil(Activations& x, int64_t row, int64_t width) {
  switch (row % 9) {
    case 1:
      return x.set(row, width / 2, kNaN);
    case 2:
      return x.set(row, width - 1, kInfinity);
    case 3:  // a mean at a tie: (1 + 2^-12)^2 has 25 bits
      for (int64_t i = 0; i < width; ++i) x.set(row, i, 0.0f);
      return x.set(row, width / 3, 1.0f);
    case 4:
      for (int64_t i = 0; i < width; ++i) x.set(row, i, i % 2 == 0 ? 0.0f : -0.0f);
      return;
    case 5:
      for (int64_t i = 0; i < width; ++i) x.set(row, i, 1e-40f * static_cast<float>(i % 7));
      return;
    case 6:
      for (int64_t i = 0; i < width; ++i) x.set(row, i, i % 3 == 0 ? 3e38f : -1e30f);
      return;
    default:
      return;
  }
}

std::vector<float> normals(size_t count, uint64_t seed) {
  Random random{seed};
  std::vector<float> values(count);
  for (float& value : values) value = random.normal();
  return values;
}

void copy(const Activations& from, Activations& to) {
  std::memcpy(to.bytes.data, from.bytes.data, from.bytes.count);
}

template <class Call>
bool refuses(const Call& call) {
  try {
    call();
  } catch (const Error&) {
    return true;
  }
  return false;
}

struct NormCase {
  const char* numerics;
  int64_t tokens, width, gap;
  bool added, replaced, sum, spoiled;
};

void check_norm(const NormCase& c) {
  const norm::Problem problem{setting_of(c.numerics), c.width, 1e-6f};
  const DType type = type_of(problem.setting);
  Random random{static_cast<uint64_t>(c.tokens * 31 + c.width)};
  Activations x(type, c.tokens, c.width, c.gap), added(type, c.tokens, c.width, c.gap);
  Activations replaced(DType::kF32, c.tokens, c.width, c.gap), x_there(type, c.tokens, c.width, c.gap);
  Activations out(type, c.tokens, c.width, c.gap), expected(type, c.tokens, c.width, c.gap);
  x.fill(random), added.fill(random, 0.3f), replaced.fill(random);
  for (int64_t t = 0; c.spoiled && t < c.tokens; ++t) {
    spoil(x, t, c.width);
    spoil(replaced, t, c.width);
    if (t % 9 == 3) {
      for (int64_t i = 0; i < c.width; ++i) added.set(t, i, 0.0f);
      added.set(t, c.width / 3, 0x1p-12f);
    }
  }
  copy(x, x_there);
  const Shared<float> weight(normals(static_cast<size_t>(c.width), 5));
  norm::Args args;
  args.x = x.view;
  if (c.added) args.added = added.view;
  if (c.replaced) args.replaced = replaced.view.as<float>();
  args.weight = {weight.data, {c.width}};
  norm::Args there = args;
  if (c.sum) args.sum = x.view;  // in place
  args.out = expected.view;
  there.x = x_there.view;
  if (c.sum) there.sum = x_there.view;
  there.out = out.view;
  norm::kReference.run(problem, args, {});
  const std::string what = text("norm %s M=%d width=%d added=%d replaced=%d sum=%d spoiled=%d", c.numerics,
                                int(c.tokens), int(c.width), c.added, c.replaced, c.sum, c.spoiled);
  claim(!norm::kCudaHopper.supports(problem), what + ": supported");
  norm::kCudaHopper.run(problem, there, {});
  synchronize(what);
  claim(differing(out, expected) == 0, what + text(": %d of out differ", int(differing(out, expected))));
  claim(differing(x_there, x) == 0, what + ": sum");
}

struct LatentCase {
  const char* numerics;
  int64_t tokens;
  bool pages;
};

void check_latent(const LatentCase& c) {
  constexpr int64_t kContext = 384, kPages = kContext / kPageTokens, kRows = 3 * kContext;
  latent_prepare::Problem problem{setting_of(c.numerics), 512, 64, 1e-6f, 3, kContext};
  if (c.pages) problem.page_tokens = kPageTokens;
  const DType type = type_of(problem.setting);
  Random random{static_cast<uint64_t>(c.tokens)};
  Activations kv(type, c.tokens, 576, 8);
  kv.fill(random, 2.0f);
  for (int64_t t = 0; t < c.tokens; ++t) spoil(kv, t, t % 2 == 0 ? 512 : 576);
  std::vector<TokenPlace> places;
  for (int64_t t = 0; t < c.tokens; ++t)
    places.push_back({static_cast<int32_t>(t % 3), static_cast<int32_t>(t / 3)});
  Shared<int32_t> table(3 * kPages);
  for (size_t i = 0; i < table.count; ++i) table.data[i] = static_cast<int32_t>(i * 5 % table.count);
  const Shared<TokenPlace> places_there(places);
  const Shared<float> weight(normals(512, 6)), cosine(normals(kContext * 32, 7)),
      sine(normals(kContext * 32, 8));
  const LatentRow row = latent_prepare::row_of(problem);
  const auto bytes = static_cast<size_t>(kRows * row.bytes());
  const Shared<std::byte> found(bytes), expected(bytes);
  latent_prepare::Args args;
  args.kv = kv.view;
  args.weight = {weight.data, {512}};
  args.places = {places_there.data, {c.tokens}};
  args.table = {{cosine.data, {kContext, 32}}, {sine.data, {kContext, 32}}};
  const auto cache_at = [&](std::byte* data) {
    LatentRows cache{row, {data, {3, kContext, row.bytes()}}};
    if (!c.pages) return cache;
    cache.rows = {data, {3 * kPages, kPageTokens, row.bytes()}};
    cache.pages = {kPageTokens, {table.data, {3, kPages}}};
    return cache;
  };
  args.cache = cache_at(expected.data);
  latent_prepare::kReference.run(problem, args, {});
  args.cache = cache_at(found.data);
  const std::string what = text("latent_prepare %s M=%d pages=%d", c.numerics, int(c.tokens), c.pages);
  claim(!latent_prepare::kCudaHopper.supports(problem), what + ": supported");
  latent_prepare::kCudaHopper.run(problem, args, {});
  synchronize(what);
  int64_t differ = 0;
  for (int64_t r = 0; r < kRows; ++r) {
    const std::byte *a = found.data + r * row.bytes(), *b = expected.data + r * row.bytes();
    if (std::memcmp(a, b, static_cast<size_t>(row.bytes())) == 0) continue;
    for (int64_t i = 0; i < 512; ++i) differ += !same_value(row.latent_value(a, i), row.latent_value(b, i));
    for (int64_t i = 0; i < 64; ++i) differ += !same_value(row.rope_value(a, i), row.rope_value(b, i));
    if (row.form == LatentCache::kFp8) differ += std::memcmp(a, b, 512 + 16) != 0;
  }
  claim(differ == 0, what + text(": %d differ", int(differ)));
}

void check_rotation(const char* numerics, rotary::Layout layout, int64_t tokens, int64_t heads, int64_t dim,
                    int64_t gap) {
  const rotary::Problem problem{setting_of(numerics), layout, heads, dim, 100};
  const DType type = type_of(problem.setting);
  Random random{static_cast<uint64_t>(tokens + heads)};
  Activations x(type, tokens * heads, dim, gap), there(type, tokens * heads, dim, gap);
  x.fill(random);
  for (int64_t r = 0; r < tokens * heads; ++r) spoil(x, r, dim);
  copy(x, there);
  std::vector<TokenPlace> places;
  for (int64_t t = 0; t < tokens; ++t) places.push_back({0, static_cast<int32_t>(random.below(100))});
  const Shared<TokenPlace> places_there(places);
  const auto half = static_cast<size_t>(dim / 2);
  const Shared<float> cosine(normals(100 * half, 9)), sine(normals(100 * half, 10));
  const auto args_of = [&](Activations& a) {
    rotary::Args args;
    args.x.data = a.bytes.data;
    args.x.dtype = type;
    args.x.extent = {tokens, heads, dim};
    args.x.stride = {heads * (dim + gap), dim + gap, 1};
    args.places = {places_there.data, {tokens}};
    args.table = {{cosine.data, {100, dim / 2}}, {sine.data, {100, dim / 2}}};
    return args;
  };
  rotary::kReference.run(problem, args_of(x), {});
  rotary::kCudaHopper.run(problem, args_of(there), {});
  const std::string what = text("rotary %s layout=%d M=%d heads=%d dim=%d", numerics, int(layout),
                                int(tokens), int(heads), int(dim));
  synchronize(what);
  claim(differing(there, x) == 0, what + text(": %d differ", int(differing(there, x))));
}

void check_embedding(const char* numerics, bool wide_table, int64_t tokens, int64_t hidden) {
  embedding::Problem problem{setting_of(numerics), 50, hidden, {}};
  const std::vector<float> values = normals(static_cast<size_t>(50 * hidden), 3);
  std::vector<bf16> narrow_values;
  for (const float value : values) narrow_values.push_back(to_bf16(value));
  const Shared<float> wide(values);
  const Shared<bf16> narrow(narrow_values);
  PreparedMatrix table;
  table.out = 50, table.in = hidden;
  if (wide_table)
    table.as = View<const float, 2>(wide.data, {50, hidden});
  else
    table.as = View<const bf16, 2>(narrow.data, {50, hidden});
  problem.table = format_of(table);
  std::vector<int32_t> ids;
  for (int64_t t = 0; t < tokens; ++t) ids.push_back(static_cast<int32_t>(t * 13 % 50));
  const Shared<int32_t> ids_there(ids);
  const DType type = type_of(problem.setting);
  Activations out(type, tokens, hidden, 8), expected(type, tokens, hidden, 8);
  embedding::kReference.run(problem, {{ids_there.data, {tokens}}, &table, expected.view}, {});
  embedding::kCudaHopper.run(problem, {{ids_there.data, {tokens}}, &table, out.view}, {});
  const std::string what = text("embedding %s M=%d hidden=%d", numerics, int(tokens), int(hidden));
  synchronize(what);
  claim(differing(out, expected) == 0, what);
}

}  // namespace

void check_norms() {
  const int c0 = checks, f0 = failures;
  for (const char* numerics :
       {"serving", "serving,norm_input=rounded", "serving,rsqrt=two_step", "fp32", "fp32,rsqrt=two_step"}) {
    for (const int64_t width : {8, 16, 136, 384, 512, 1024, 1032, 1536, 4096, 6144, 7168, 8192})
      for (const int64_t tokens : {1, 7, 18, 40})
        for (const bool spoiled : {false, true}) {
          check_norm({numerics, tokens, width, 8, true, false, true, spoiled});
          if (tokens == 18) check_norm({numerics, tokens, width, 0, false, false, false, spoiled});
          if (tokens == 7) check_norm({numerics, tokens, width, 8, false, true, true, spoiled});
        }
  }
  claim(refuses([] {
          check_norm({"serving", 5, 7168, 3, true, false, true, false});
        }),
        "norm: rows not aligned");
  for (uint64_t seed = 0; seed < 40; ++seed)
    check_norm({"serving", 300 + int64_t(seed), 512, 0, true, false, true, false});
  report("norm", c0, f0);
}

void check_latents() {
  const int c0 = checks, f0 = failures;
  for (const char* numerics : {"serving", "serving,latent_cache=bf16", "serving,latent_cache=fp32", "fp32",
                               "fp32,latent_cache=fp8", "fp32,latent_cache=bf16", "serving,rsqrt=two_step"})
    for (const int64_t tokens : {0, 1, 2, 16, 45, 600, 1100})
      for (const bool pages : {false, true}) check_latent({numerics, tokens, pages});
  report("latent_prepare", c0, f0);
}

void check_rotations() {
  const int c0 = checks, f0 = failures;
  for (const char* numerics : {"serving", "fp32"})
    for (const rotary::Layout layout : {rotary::Layout::kInterleaved, rotary::Layout::kHalfSplit})
      for (const int64_t tokens : {1, 5, 40})
        for (const auto& [heads, dim, gap] :
             {std::array<int64_t, 3>{1, 8, 0}, {3, 24, 8}, {128, 64, 128}, {64, 64, 64}, {37, 64, 0}})
          check_rotation(numerics, layout, tokens, heads, dim, gap);
  claim(refuses([] { check_rotation("serving", rotary::Layout::kInterleaved, 5, 2, 64, 3); }),
        "rotary: rows not aligned");
  report("rotary", c0, f0);
}

void check_embeddings() {
  const int c0 = checks, f0 = failures;
  for (const char* numerics : {"serving", "fp32"})
    for (const bool wide : {false, true})
      for (const int64_t tokens : {1, 9, 70})
        for (const int64_t hidden : {8, 1032, 7168}) check_embedding(numerics, wide, tokens, hidden);
  report("embedding", c0, f0);
}

// `times` launches of a case of each step, each held against the reference.
void repeat_steps(int times) {
  const int c0 = checks, f0 = failures;
  for (int i = 0; i < times; ++i) {
    check_norm({"serving", 9, 7168, 8, true, false, true, true});
    check_latent({"serving", 16, true});
    check_rotation("serving", rotary::Layout::kInterleaved, 5, 37, 64, 64);
    check_embedding("serving", false, 9, 1032);
  }
  report("steps, repeated", c0, f0);
}

}  // namespace fulgurite::probe

int main(int count, char** words) {
  using namespace fulgurite::probe;
  const std::string what = count > 1 ? words[1] : "check";
  if (what == "check") {
    check_norms();
    check_latents();
    check_rotations();
    check_embeddings();
    check_routers();
  } else if (what == "experts") {
    check_experts();
  } else if (what == "same" || what == "small") {
    repeat_steps(what == "same" ? 1000 : 1);
    repeat_experts(what == "same" ? 1000 : 1);
  } else if (what == "time") {
    time_steps();
  } else if (what == "time_experts") {
    time_experts();
  }
  std::printf("%s: %d checks, %d failed\n", what.c_str(), checks, failures);
  return failures != 0;
}
