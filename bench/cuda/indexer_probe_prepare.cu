// indexer_prepare's kernel against its reference.

#include "bench/cuda/indexer_probe.h"
#include "bench/cuda/indexer_probe_late.h"
#include "fulgurite/ops/indexer_prepare/indexer_prepare_cuda.h"

namespace fulgurite::probe {
namespace {

namespace preparation = indexer_prepare::cuda;

struct PrepareInputs {
  Preparation host;
  Device<uint16_t> q, k;
  Device<float> gate, k_weight, k_bias, cosine, sine;
  Device<int32_t> places, table;
  std::vector<int32_t> pages;
  int pages_of_one;
  explicit PrepareInputs(const Preparation& p)
      : host(p),
        q(p.q),
        k(p.k),
        gate(p.gate),
        k_weight(p.k_weight),
        k_bias(p.k_bias),
        cosine(p.cosine),
        sine(p.sine),
        places(p.places),
        table(size_t(p.sequences) * ((p.context + 63) / 64)),
        pages(table.count),
        pages_of_one((p.context + 63) / 64) {
    for (size_t i = 0; i < pages.size(); ++i) pages[i] = static_cast<int32_t>(i);
    for (size_t i = pages.size(); i > 1; --i) std::swap(pages[i - 1], pages[hash(i) % i]);
    table.upload(pages);
  }
};

struct PrepareOutputs {
  Device<uint8_t> q_codes, cache;
  Device<float> weights;
  explicit PrepareOutputs(const PrepareInputs& in)
      : q_codes(in.host.q.size() + 64),
        cache(in.pages.size() * preparation::kPageBytes),
        weights(in.host.gate.size() + 8) {
    q_codes.poison();
    cache.poison();
    weights.poison();
  }
};

preparation::Params params_of(const PrepareInputs& in, const PrepareOutputs& out) {
  const Preparation& p = in.host;
  preparation::Params params;
  params.q = in.q.data;
  params.q_head_stride = params.code_head_stride = 128;
  params.q_token_stride = params.code_token_stride = p.heads * 128;
  params.q_codes = out.q_codes.data;
  params.gate = in.gate.data;
  params.gate_stride = params.weights_stride = p.heads;
  params.weights = out.weights.data;
  params.k = in.k.data;
  params.k_stride = 128;
  params.k_weight = in.k_weight.data;
  params.k_bias = in.k_bias.data;
  params.key_pages = out.cache.data;
  params.block_table = in.table.data;
  params.block_table_stride = in.pages_of_one;
  params.places = reinterpret_cast<const int2*>(in.places.data);
  params.cosine = in.cosine.data;
  params.sine = in.sine.data;
  params.tokens = p.tokens;
  params.heads = p.heads;
  params.interleaved = p.interleaved;
  params.rotates_last = p.rotates_last;
  const auto knob = [&](const char* value) { return p.numerics.find(value) != std::string::npos; };
  params.hadamard_q = !knob("hadamard=none");
  params.hadamard_k = !knob("hadamard=none") && !knob("hadamard=q");
  params.pow2 = !knob("index_scale=fp32");
  params.round_norm = knob("index_norm=bf16");
  params.two_step_rsqrt = knob("rsqrt=two_step");
  return params;
}

size_t differences(const PrepareInputs& in, const PrepareOutputs& out, const Prepared& expected) {
  const Preparation& p = in.host;
  size_t wrong = 0;
  std::vector<uint8_t> codes = out.q_codes.download(), cache = out.cache.download();
  const std::vector<float> weights = out.weights.download();
  for (size_t i = 0; i < codes.size(); ++i)
    wrong += codes[i] != (i < expected.q_codes.size() ? expected.q_codes[i] : 0xCD);
  uint32_t poison = 0xCDCDCDCD;
  for (size_t i = 0; i < weights.size(); ++i)
    wrong += i < expected.weights.size() ? !same(weights[i], expected.weights[i])
                                         : std::memcmp(&weights[i], &poison, 4) != 0;
  for (int t = 0; t < p.tokens;
       ++t) {  // found rows become poison again: then nothing else may differ from it
    const int position = p.places[2 * t + 1];
    const size_t page = in.pages[size_t(p.places[2 * t]) * in.pages_of_one + position / 64];
    uint8_t* const row = &cache[page * preparation::kPageBytes + position % 64 * 128];
    uint8_t* const scale = &cache[page * preparation::kPageBytes + 8192 + position % 64 * 4];
    for (int i = 0; i < 128; ++i) wrong += row[i] != expected.k_codes[size_t(t) * 128 + i];
    wrong += std::memcmp(scale, &expected.k_scales[t], 4) != 0;
    std::memset(row, 0xCD, 128);
    std::memset(scale, 0xCD, 4);
  }
  for (const uint8_t byte : cache) wrong += byte != 0xCD;
  return wrong;
}

Preparation make_preparation(int tokens, int heads, int sequences, int context, uint64_t seed) {
  Preparation p;
  p.q = random_bf16(size_t(tokens) * heads * 128, seed);
  p.k = random_bf16(size_t(tokens) * 128, seed + 1);
  p.gate = random_floats(size_t(tokens) * heads, seed + 2);
  p.k_weight = random_floats(128, seed + 3);
  p.k_bias = random_floats(128, seed + 4);
  p.cosine = random_floats(size_t(context) * 32, seed + 5);
  p.sine = random_floats(size_t(context) * 32, seed + 6);
  p.tokens = tokens;
  p.heads = heads;
  p.sequences = sequences;
  p.context = context;
  std::vector<int> order(size_t(sequences) * context);
  for (size_t i = 0; i < order.size(); ++i) order[i] = static_cast<int>(i);
  for (size_t i = order.size(); i > 1; --i) std::swap(order[i - 1], order[hash(seed + 7 * i) % i]);
  for (int t = 0; t < tokens; ++t) {
    p.places.push_back(order[t] / context);
    p.places.push_back(order[t] % context);
  }
  return p;
}

// Rows whose sums need care: wide ranges, a tie of the mean square, denormals, NaN, infinity, zeros, large
// values.
void spoil(Preparation& p) {
  for (int t = 0; t < p.tokens; ++t) {
    uint16_t* const k = &p.k[size_t(t) * 128];
    uint16_t* const q = &p.q[size_t(t) * p.heads * 128];
    for (int i = 0; i < 128; ++i) {
      const uint32_t r = hash(uint64_t(t) * 128 + i);
      switch (t % 12) {
        case 1:
          k[i] = static_cast<uint16_t>(r & 0xBFFF);
          break;  // exponents up to 1
        case 2:
          k[i] = static_cast<uint16_t>((r & 0x807F) | (0x20 + r % 0x90) << 7);
          break;  // 2^144 apart
        case 3:
          k[i] = i == 0 ? 0x4580 : i == 77 ? 0xC580 : i == 30 ? 0x3F80 : i == 31 ? 0xBF80 : 0;
          break;  // tie
        case 4:
          k[i] = static_cast<uint16_t>(r & 0x807F);
          break;  // denormals
        case 5:
          if (i == t % 128) k[i] = 0x7FC0, q[i] = 0xFFC0;
          break;
        case 6:
          if (i == t % 128) k[i] = 0x7F80, q[i] = 0xFF80;
          break;
        case 7:
          k[i] = static_cast<uint16_t>(i % 2 << 15), q[i] = k[i];
          break;
        case 8:
          k[i] |= 0x7000, q[i] |= 0x7000;
          break;
        case 9:
          q[i] = static_cast<uint16_t>(r & 0x807F);
          break;
        case 10:
          k[i] = 0x3F80, q[i] = static_cast<uint16_t>(r & 0xFFFF);
          break;
        default:
          break;
      }
    }
    if (t % 12 == 11) p.gate[size_t(t) * p.heads] = std::numeric_limits<float>::quiet_NaN();
  }
}

void check_preparation(Preparation p, bool odd) {
  if (odd) spoil(p);
  const PrepareInputs in(p);
  Prepared expected;
  prepare(p, expected);
  for (const bool dependent : {false, true}) {
    const PrepareOutputs out(in);
    preparation::Params params = params_of(in, out);
    params.dependent = dependent;
    preparation::launch(params, nullptr);
    MUST(cudaDeviceSynchronize());
    const size_t wrong = differences(in, out, expected);
    claim(wrong == 0, text("prepare M=%d heads=%d interleaved=%d last=%d %s odd=%d: %zu differ", p.tokens,
                           p.heads, p.interleaved, p.rotates_last, p.numerics.c_str(), odd, wrong));
  }
  if (p.tokens == 0 || odd) return;
  const PrepareOutputs out(in);
  preparation::Params params = params_of(in, out);
  params.interleaved = !params.interleaved;
  preparation::launch(params, nullptr);
  claim(differences(in, out, expected) > 0, "prepare: the other rotation is told apart");
}

void check_preparation_repeats(int tokens, int times) {
  const PrepareInputs in(make_preparation(tokens, 64, 2, 2048, 5));
  const PrepareOutputs first(in);
  preparation::launch(params_of(in, first), nullptr);
  Device<unsigned> differ(1);
  MUST(cudaMemset(differ.data, 0, 4));
  PrepareOutputs again(in);
  for (int i = 0; i < times; ++i) {
    again.q_codes.poison();
    again.cache.poison();
    again.weights.poison();
    preparation::launch(params_of(in, again), nullptr);
    const auto compare = [&](const auto& a, const auto& b) {
      count_differences(reinterpret_cast<uint32_t*>(a.data), reinterpret_cast<uint32_t*>(b.data),
                        a.count * sizeof(*a.data) / 4, differ.data);
    };
    compare(first.q_codes, again.q_codes);
    compare(first.cache, again.cache);
    compare(first.weights, again.weights);
  }
  claim(differ.download()[0] == 0, text("prepare M=%d: %d launches agree", tokens, times));
}

void check_dependence(int tokens) {
  const PrepareInputs in(make_preparation(tokens, 64, 2, 2048, 5));
  const PrepareOutputs expected_codes(in), found_codes(in);
  preparation::launch(params_of(in, expected_codes), nullptr);
  Device<uint16_t> late_q(in.q.count), late_k(in.k.count);
  late_q.poison();
  late_k.poison();
  MUST(cudaDeviceSynchronize());
  preparation::Params prepare = params_of(in, found_codes);
  prepare.q = late_q.data;
  prepare.k = late_k.data;
  prepare.dependent = true;
  write_late(late_k.data, in.k.data, in.k.count);
  write_late(late_q.data, in.q.data, in.q.count);
  preparation::launch(prepare, nullptr);
  MUST(cudaDeviceSynchronize());
  claim(expected_codes.q_codes.download() == found_codes.q_codes.download() &&
            expected_codes.cache.download() == found_codes.cache.download(),
        text("prepare M=%d waits for its predecessor", tokens));
}

}  // namespace

void check_preparations(bool fast) {
  const std::vector<int> batches =
      fast ? std::vector<int>{0, 1, 17} : std::vector<int>{0, 1, 7, 16, 17, 63, 65, 129};
  const std::vector<const char*> knobs = {"",
                                          ",index_scale=fp32",
                                          ",hadamard=none",
                                          ",hadamard=q",
                                          ",index_norm=bf16",
                                          ",rsqrt=two_step,index_scale=fp32"};
  for (const int tokens : batches)
    for (const int heads : {64, 8, 13})
      for (const char* knob : knobs)
        for (int style = 0; style < 4; ++style)
          for (const bool odd : {false, true}) {
            if ((tokens > 17 || heads != 64) && style != (tokens + heads) % 4) continue;
            Preparation p = make_preparation(tokens, heads, 3, 200, 31 + tokens);
            p.interleaved = style % 2 != 0;
            p.rotates_last = style / 2 != 0;
            p.numerics = knob;
            check_preparation(p, odd);
          }
  if (fast) return;
  for (const char* knob : {"", ",index_scale=fp32"}) {
    Preparation p = make_preparation(2048, 64, 2, 2048, 99);
    p.numerics = knob;
    check_preparation(p, false);
    check_preparation(p, true);
    check_preparation(make_preparation(1500, 32, 2, 2048, 98), true);
  }
  for (const int tokens : {3, 16, 60, 500}) check_dependence(tokens);
  check_preparation_repeats(16, 1000);
  check_preparation_repeats(2048, 1000);
  report_checks("preparations");
}

void run_small_preparations() {
  for (const int tokens : {5, 200}) check_preparation(make_preparation(tokens, 64, 2, 200, 3), true);
}

}  // namespace fulgurite::probe
