// query_prepare and kv_prepare of Hopper against the references, bit for bit.

#include "bench/cuda/window_attention_probe.h"
#include "fulgurite/core/element.h"
#include "fulgurite/core/random.h"
#include "fulgurite/ops/kv_prepare/kv_prepare.h"
#include "fulgurite/ops/query_prepare/query_prepare.h"

namespace fulgurite::probe {
namespace {

constexpr int64_t kDim = 512, kRope = 64, kPositions = 300;

bool is_fp32(const Setting& setting) { return setting.numerics.activation == Activation::kFp32; }

// Rows of activations, some of them not ordinary.
struct Rows {
  Both<std::byte> bytes;
  int64_t count;
  bool fp32;
  Rows(int64_t rows, bool wide, uint64_t seed)
      : bytes(static_cast<size_t>(rows * kDim * (wide ? 4 : 2))), count(rows), fp32(wide) {
    Random random(seed);
    for (int64_t r = 0; r < rows; ++r)
      for (int64_t i = 0; i < kDim; ++i) set(r, i, value(random, r, i));
  }
  void set(int64_t row, int64_t i, float value) {
    if (fp32)
      reinterpret_cast<float*>(bytes.data)[row * kDim + i] = value;
    else
      reinterpret_cast<bf16*>(bytes.data)[row * kDim + i] = to_bf16(value);
  }
  float get(int64_t row, int64_t i) const {
    return fp32 ? reinterpret_cast<const float*>(bytes.data)[row * kDim + i]
                : to_float(reinterpret_cast<const bf16*>(bytes.data)[row * kDim + i]);
  }
  static float value(Random& random, int64_t row, int64_t i) {
    const float x = normal(random.bits());
    switch (row % 13) {
      case 1:
        return i == 100 ? NAN : x;
      case 2:
        return i == 511 ? std::numeric_limits<float>::infinity() : x;
      case 3:
        return i % 2 == 0 ? 0.0f : -0.0f;
      case 4:
        return 1e-40f * static_cast<float>(i % 7);
      case 5:
        return i % 3 == 0 ? 3e38f : -1e30f;
      case 6:
        return i < 64 ? x : i < 128 ? 1e-6f * x : 1000.0f * x;
      default:
        return x;
    }
  }
};

struct Step {
  std::vector<TokenPlace> at;
  Both<TokenPlace> places;
  Both<float> cosine, sine, weight;
  explicit Step(int64_t tokens)
      : at(make(tokens)),
        places(at),
        cosine(random_floats(kPositions * kRope / 2, 2)),
        sine(random_floats(kPositions * kRope / 2, 3)),
        weight(random_floats(kDim, 4)) {}
  static std::vector<TokenPlace> make(int64_t tokens) {
    std::vector<TokenPlace> at;
    for (int64_t t = 0; t < tokens; ++t)
      at.push_back({static_cast<int32_t>(t % 5), static_cast<int32_t>(t / 5 * 2 % kPositions)});
    return at;
  }
  rotary::Table table() const {
    return {{cosine.data, {kPositions, kRope / 2}}, {sine.data, {kPositions, kRope / 2}}};
  }
};

void check_queries(const char* numerics, int64_t tokens, int64_t heads, bool normed) {
  const query_prepare::Problem problem{setting_of(numerics), heads, kDim, kRope, 1e-6f};
  const bool wide = is_fp32(problem.setting);
  const uint64_t seed = static_cast<uint64_t>(tokens * 100 + heads);
  const Rows expected(tokens * heads, wide, seed), found(tokens * heads, wide, seed);
  const Step step(tokens);
  const Both<float> before(static_cast<size_t>(tokens * heads * kDim)), after(before.count);
  const auto args = [&](const Rows& rows, const Both<float>& of) {
    query_prepare::Args a;
    a.q = wide ? Tensor<3>(View<float, 3>{reinterpret_cast<float*>(rows.bytes.data), {tokens, heads, kDim}})
               : Tensor<3>(View<bf16, 3>{reinterpret_cast<bf16*>(rows.bytes.data), {tokens, heads, kDim}});
    a.places = {step.places.data, {tokens}};
    a.table = step.table();
    if (normed) a.normed = {of.data, {tokens, heads, kDim}};
    return a;
  };
  const std::string what = text("query_prepare %s, %d tokens, %d heads", numerics, int(tokens), int(heads));
  claim(!query_prepare::kCudaHopper.supports(problem), what + ": taken");
  query_prepare::kReference.run(problem, args(expected, before), {});
  query_prepare::kCudaHopper.run(problem, args(found, after), OnDevice(0).lane());
  int64_t differ = 0;
  for (int64_t r = 0; r < tokens * heads; ++r)
    for (int64_t i = 0; i < kDim; ++i) {
      differ += !same(found.get(r, i), expected.get(r, i));
      if (normed) differ += !same(before.data[r * kDim + i], after.data[r * kDim + i]);
    }
  claim(differ == 0, what + text(": %d differ", int(differ)));
}

void check_rows(const char* numerics, int64_t tokens, int64_t ring) {
  const kv_prepare::Problem problem{setting_of(numerics), kDim, kRope, 1e-6f, 5, ring};
  const bool wide = is_fp32(problem.setting);
  const Rows kv(tokens, wide, static_cast<uint64_t>(tokens));
  const Step step(tokens);
  const KvRow row = kv_prepare::row_of(problem);
  const Both<std::byte> expected(static_cast<size_t>(row.cache_bytes(5, ring))), found(expected.count);
  const auto args = [&](const Both<std::byte>& cache) {
    kv_prepare::Args a;
    a.kv = wide ? Tensor<2>(View<float, 2>{reinterpret_cast<float*>(kv.bytes.data), {tokens, kDim}})
                : Tensor<2>(View<bf16, 2>{reinterpret_cast<bf16*>(kv.bytes.data), {tokens, kDim}});
    a.weight = {step.weight.data, {kDim}};
    a.places = {step.places.data, {tokens}};
    a.table = step.table();
    a.cache = {row, {cache.data, {5, KvRow::blocks(ring), row.block_bytes()}}};
    return a;
  };
  const std::string what = text("kv_prepare %s, %d tokens, ring %d", numerics, int(tokens), int(ring));
  claim(!kv_prepare::kCudaHopper.supports(problem), what + ": taken");
  kv_prepare::kReference.run(problem, args(expected), {});
  kv_prepare::kCudaHopper.run(problem, args(found), OnDevice(0).lane());
  int64_t differ = 0;
  const ConstKvRows a = args(expected).cache, b = args(found).cache;
  for (int64_t s = 0; s < 5; ++s)
    for (int64_t r = 0; r < ring; ++r) {
      for (int64_t i = 0; i < kDim; ++i) differ += !same(a.value(s, r, i), b.value(s, r, i));
      if (row.form != LatentCache::kFp8) continue;
      differ += std::memcmp(a.at(s, r), b.at(s, r), kDim - kRope) != 0;
      differ += std::memcmp(a.scales_at(s, r), b.scales_at(s, r), 8) != 0;
    }
  claim(differ == 0, what + text(": %d differ", int(differ)));
}

}  // namespace

void check_prepared() {
  for (const char* numerics : {"serving", "fp32", "serving,rsqrt=two_step"})
    for (const int64_t tokens : {0, 1, 3, 40})
      for (const int64_t heads : {1, 8, 64}) check_queries(numerics, tokens, heads, heads == 8);
  for (const char* numerics : {"serving", "serving,latent_cache=bf16", "serving,latent_cache=fp32",
                               "serving,latent_cache=bf16,kv_quant=none", "fp32", "fp32,latent_cache=bf16",
                               "fp32,kv_quant=e4m3", "fp32,kv_quant=e4m3,latent_cache=fp8"})
    for (const int64_t tokens : {0, 1, 7, 129, 600}) check_rows(numerics, tokens, tokens + 130);
  report_checks("query_prepare and kv_prepare");
}

}  // namespace fulgurite::probe
