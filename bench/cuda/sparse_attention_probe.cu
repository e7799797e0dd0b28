// Holds sparse_attention's kernels of Hopper against the library's references, and times them.
//   sparse_attention_probe check    scores bit for bit, results within the header's bound; awkward lists, NaN, infinity
//   sparse_attention_probe small    a few small cases, for compute-sanitizer
//   sparse_attention_probe same     2,000 launches give the same bits
//   sparse_attention_probe time     decode and prefill, CUDA graphs of calls on other rows each time
//   sparse_attention_probe parts    the two kernels of split lists apart
//   sparse_attention_probe one NAME a few launches, for a profiler
// ./dev probes builds it.

#include "bench/cuda/sparse_attention_probe.h"

#include <cmath>
#include <cstring>

#include "bench/cuda/sparse_attention_expected.h"

namespace fulgurite::sparse_attention::probe {
namespace {

constexpr int kWidth = kCudaLatent + kCudaRope;
constexpr float kInfinity = INFINITY;

uint16_t bf16_of(float x) { return static_cast<uint16_t>(std::bit_cast<uint32_t>(x) >> 16); }
float value_of(uint16_t bf16) { return std::bit_cast<float>(static_cast<uint32_t>(bf16) << 16); }

// --- a cache ---

struct Pool {
  CudaRows form;
  int rows;
  std::vector<uint8_t> bytes;
  std::vector<float> values;  // [rows][576]
  std::vector<uint32_t> factors;

  int row_bytes() const { return form == CudaRows::kFp8 ? kCudaFp8RowBytes : kCudaBf16RowBytes; }
  uint8_t* row(int i) { return bytes.data() + static_cast<size_t>(i) * row_bytes(); }
  uint16_t* rope(int i) { return reinterpret_cast<uint16_t*>(row(i) + row_bytes() - 128); }

  Pool(CudaRows f, int n, uint64_t seed) : form(f), rows(n), bytes(static_cast<size_t>(n) * row_bytes()) {
    for (int i = 0; i < rows; ++i) {
      const uint64_t base = (seed << 32 | static_cast<uint64_t>(i)) * 1024;
      if (form == CudaRows::kFp8)
        for (int c = 0; c < kCudaLatent; ++c) {
          const auto code = static_cast<uint8_t>(mix(base + c) % 256);
          row(i)[c] = (code & 0x7F) == 0x7F ? 0 : code;
        }
      else
        for (int c = 0; c < kCudaLatent; ++c)
          reinterpret_cast<uint16_t*>(row(i))[c] = bf16_of(normal(base + c));
      if (form == CudaRows::kFp8)
        for (int g = 0; g < 4; ++g) {
          const float scale = std::ldexp(1.0f, -7 - static_cast<int>(mix(base + 600 + g) % 3));
          std::memcpy(row(i) + kCudaLatent + 4 * g, &scale, 4);
        }
      for (int c = 0; c < kCudaRope; ++c) rope(i)[c] = bf16_of(normal(base + 700 + c));
    }
  }

  // After the bytes have been written.
  void read() {
    values.resize(static_cast<size_t>(rows) * kWidth);
    factors.resize(values.size());
    parallel(rows, [&](int64_t i) {
      for (int c = 0; c < kWidth; ++c) {
        const uint8_t* const r = row(static_cast<int>(i));
        float value;
        if (form == CudaRows::kFp8 && c < kCudaLatent) {
          float scale;
          std::memcpy(&scale, r + kCudaLatent + c / 128 * 4, 4);
          value = code_value(r[c]) * scale;
        } else {
          value = value_of(c < kCudaLatent ? reinterpret_cast<const uint16_t*>(r)[c]
                                           : rope(static_cast<int>(i))[c - kCudaLatent]);
        }
        values[static_cast<size_t>(i) * kWidth + c] = value;
        factors[static_cast<size_t>(i) * kWidth + c] = bf16_factor(value);
      }
    });
  }
};

// --- a launch ---

struct Batch {
  int heads, topk;
  std::vector<std::vector<int32_t>> lists;
  std::vector<uint16_t> q, q_rope;  // [tokens][heads][512 + 8], [tokens][heads][64]: rows with gaps

  static constexpr int kPitch = kCudaLatent + 8;
  int tokens() const { return static_cast<int>(lists.size()); }
  uint16_t& at(int token, int head, int c) {
    const size_t row = static_cast<size_t>(token) * heads + head;
    return c < kCudaLatent ? q[row * kPitch + c] : q_rope[row * kCudaRope + c - kCudaLatent];
  }

  Batch(int h, int k, const std::vector<std::vector<int32_t>>& of, uint64_t seed)
      : heads(h), topk(k), lists(of) {
    q.resize(static_cast<size_t>(tokens()) * heads * kPitch);
    q_rope.resize(static_cast<size_t>(tokens()) * heads * kCudaRope);
    for (int t = 0; t < tokens(); ++t)
      for (int i = 0; i < heads; ++i)
        for (int c = 0; c < kWidth; ++c)
          at(t, i, c) = bf16_of(normal((seed << 40) + (static_cast<uint64_t>(t) * 128 + i) * kWidth + c));
  }
};

struct Result {
  std::vector<uint16_t> out;
  std::vector<float> scores;
};

constexpr float kScale = 0.0416666679f;
constexpr uint16_t kPoison = 0xCDCD;

Result run(const Batch& batch, const Pool& pool, int splits, bool places, bool scores, int launches = 1,
           int block_heads = 0) {
  std::vector<int32_t> selected(static_cast<size_t>(batch.tokens()) * batch.topk, -1);
  for (int t = 0; t < batch.tokens(); ++t)
    std::copy(batch.lists[t].begin(), batch.lists[t].end(),
              selected.begin() + static_cast<size_t>(t) * batch.topk);
  const Device<uint8_t> rows(pool.bytes);
  const Device<int32_t> list(selected);
  const Device<uint16_t> q(batch.q), rope(batch.q_rope);
  Device<uint16_t> out(batch.q.size());
  Device<float> of_scores(scores ? static_cast<size_t>(batch.tokens()) * batch.heads * batch.topk : 0);
  Device<uint8_t> workspace(hopper_workspace_bytes(batch.tokens(), batch.heads, splits));
  const Device<TokenPlace> place(std::vector<TokenPlace>(batch.lists.size()));
  out.fill(0xCD);
  of_scores.fill(0xCD);
  workspace.fill(0xCD);
  CudaParams p;
  p.q = q.data;
  p.q_head = p.out_head = Batch::kPitch;
  p.q_token = p.out_token = Batch::kPitch * batch.heads;
  p.q_rope = rope.data;
  p.q_rope_head = kCudaRope;
  p.q_rope_token = kCudaRope * batch.heads;
  p.form = pool.form;
  p.rows = rows.data;
  p.row_stride = pool.row_bytes();
  p.places = places ? place.data : nullptr;
  p.sequence_stride = 1 << 20;
  p.selected = list.data;
  p.selected_stride = batch.topk;
  p.out = out.data;
  p.out_head = Batch::kPitch;
  p.scores = scores ? of_scores.data : nullptr;
  p.workspace = workspace.data;
  p.tokens = batch.tokens();
  p.heads = batch.heads;
  p.topk = batch.topk;
  p.splits = splits;
  p.block_heads = block_heads;
  p.scale = kScale;
  for (int i = 0; i < launches; ++i) {
    p.dependent = i % 2 == 1;
    cuda_launch(p, nullptr);
  }
  MUST(cudaGetLastError());
  MUST(cudaDeviceSynchronize());
  return {out.download(), of_scores.download()};
}

// --- judging ---

struct Worst {
  double share = 0.0;      // of the bound, against exact weights
  double reference = 0.0;  // of the bound, against the reference's running softmax
  double error = 0.0, norm = 0.0;
  int64_t scores = 0, wrong_scores = 0, outside = 0, not_nan = 0, heads = 0;
  void add(const Worst& b) {
    share = std::max(share, b.share);
    reference = std::max(reference, b.reference);
    error += b.error;
    norm += b.norm;
    scores += b.scores;
    wrong_scores += b.wrong_scores;
    outside += b.outside;
    not_nan += b.not_nan;
    heads += b.heads;
  }
};

Worst judge_head(Batch& batch, const Pool& pool, const Result& got, int splits, int t, int h,
                 bool reference) {
  Worst worst;
  worst.heads = 1;
  const std::vector<int32_t>& list = batch.lists[t];
  std::vector<uint32_t> q;
  for (int c = 0; c < kWidth; ++c) q.push_back(bf16_factor(value_of(batch.at(t, h, c))));
  std::vector<float> scores, rows;
  bool nan = true;
  for (size_t j = 0; j < list.size(); ++j) {
    const size_t row = static_cast<size_t>(list[j]) * kWidth;
    scores.push_back(expected_score(q.data(), &pool.factors[row], kWidth, kScale));
    rows.insert(rows.end(), &pool.values[row], &pool.values[row] + kCudaLatent);
    ++worst.scores;
    const float score = got.scores[(static_cast<size_t>(t) * batch.heads + h) * batch.topk + j];
    worst.wrong_scores += !same(score, scores.back());
    nan = nan && scores.back() == -kInfinity;
  }
  for (const float s : scores) nan = nan || std::isnan(s) || s == kInfinity;
  const uint16_t* const out = &got.out[(static_cast<size_t>(t) * batch.heads + h) * Batch::kPitch];
  if (nan) {
    for (int c = 0; c < kCudaLatent; ++c) worst.not_nan += !std::isnan(value_of(out[c]));
    return worst;
  }
  const Exact exact = exact_head(scores, rows.data(), kCudaLatent, splits);
  const std::vector<float> expected =
      reference ? expected_head(scores, rows.data(), kCudaLatent) : std::vector<float>();
  for (int c = 0; c < kCudaLatent; ++c) {
    const double value = value_of(out[c]), off = std::abs(value - exact.out[c]);
    const double bound = exact.bound[c] + 0x1p-8 * (std::abs(exact.out[c]) + exact.bound[c]) + 1e-38;
    worst.error += off * off;
    worst.norm += exact.out[c] * exact.out[c];
    worst.share = std::max(worst.share, off / bound);
    worst.outside += !(off <= bound);
    if (!reference) continue;
    const double apart = std::abs(value - expected[c]), both = 2.0 * exact.bound[c];
    const double reach = both + 0x1p-8 * (std::abs(expected[c]) + both) + 1e-38;
    worst.reference = std::max(worst.reference, apart / reach);
    worst.outside += !(apart <= reach);
  }
  return worst;
}

void judge(const char* what, Batch& batch, const Pool& pool, int splits, bool places, int block_heads = 0) {
  const Result got = run(batch, pool, splits, places, true, 1, block_heads);
  std::vector<std::pair<int, int>> jobs;
  for (int t = 0; t < batch.tokens(); ++t) {
    const int step =
        batch.lists[t].size() > 200 ? std::max(1, batch.heads / 4 - 1) : std::max(1, batch.heads / 16);
    for (int h = t % step; h < batch.heads; h += step) jobs.emplace_back(t, h);
  }
  std::vector<Worst> of(jobs.size());
  parallel(static_cast<int64_t>(jobs.size()), [&](int64_t i) {
    const auto [t, h] = jobs[i];
    of[i] = judge_head(batch, pool, got, splits, t, h, i % 5 == 0);
  });
  Worst worst;
  for (const Worst& w : of) worst.add(w);
  int64_t written = 0;
  for (size_t i = 0; i < got.out.size(); ++i)
    if (i % Batch::kPitch >= kCudaLatent) written += got.out[i] != kPoison;
  char line[300];
  std::snprintf(
      line, sizeof line,
      "%-10s %s heads %3d splits %2d topk %4d: %lld of %lld scores differ, %lld outside, %lld not NaN, %lld "
      "gaps written; of the bound %.2f, reference %.2f; error %.1e (%lld heads)",
      what, pool.form == CudaRows::kFp8 ? "fp8 " : "bf16", batch.heads, splits, batch.topk,
      (long long)worst.wrong_scores, (long long)worst.scores, (long long)worst.outside,
      (long long)worst.not_nan, (long long)written, worst.share, worst.reference,
      std::sqrt(worst.error / std::max(worst.norm, 1e-300)), (long long)worst.heads);
  std::printf("%s\n", line);
  std::fflush(stdout);
  claim(worst.wrong_scores == 0 && worst.outside == 0 && worst.not_nan == 0 && written == 0, line);
}

std::vector<std::vector<int32_t>> lists_of(const std::vector<int>& counts, int range, uint64_t seed) {
  std::vector<std::vector<int32_t>> lists;
  for (size_t i = 0; i < counts.size(); ++i) lists.push_back(distinct(seed + i, counts[i], range));
  return lists;
}

// The same token anywhere in a batch, alone, and with -infinity, infinity and NaN at hand.
void check_batches(int heads, const Pool& pool, int splits) {
  auto lists = lists_of({700, 65, 1}, pool.rows, 77);
  Batch one(heads, 1024, {lists[0]}, 5);
  lists.insert(lists.begin() + 1, lists[0]);
  lists.push_back(lists[0]);
  Batch many(heads, 1024, lists, 5);
  for (const int t : {1, 4})
    for (int h = 0; h < heads; ++h)
      for (int c = 0; c < kWidth; ++c) many.at(t, h, c) = many.at(0, h, c);
  const Result a = run(one, pool, splits, false, false), b = run(many, pool, splits, true, false, 3);
  const size_t size = a.out.size();
  for (const size_t t : {0, 1, 4})
    claim(std::memcmp(a.out.data(), b.out.data() + t * size, size * 2) == 0,
          "batch: heads " + std::to_string(heads) + " token " + std::to_string(t));
}

void check_odd(int heads, CudaRows form, int splits) {
  Pool pool(form, 512, 9);
  pool.rope(3)[0] = bf16_of(-kInfinity);
  pool.rope(5)[7] = bf16_of(NAN);
  if (form == CudaRows::kFp8)
    pool.row(7)[200] = 0xFF;
  else
    reinterpret_cast<uint16_t*>(pool.row(7))[200] = bf16_of(NAN);
  pool.read();
  const auto without = [](std::vector<int32_t> list, std::vector<int32_t> out, std::vector<int32_t> in) {
    std::erase_if(list,
                  [&](int32_t x) { return x < 8 && std::find(out.begin(), out.end(), x) == out.end(); });
    list.insert(list.end(), in.begin(), in.end());
    std::sort(list.begin(), list.end());
    list.erase(std::unique(list.begin(), list.end()), list.end());
    return list;
  };
  const std::vector<int32_t> some = distinct(3, 150, 512);
  Batch batch(heads, 192,
              {without(some, {}, {3}),
               without(some, {}, {5}),
               without(some, {}, {7}),
               {3},
               without(some, {}, {}),
               without(some, {}, {})},
              11);
  for (int t = 0; t < batch.tokens(); ++t)
    for (int h = 0; h < heads; ++h) batch.at(t, h, kCudaLatent) = bf16_of(h % 2 == 0 ? 1.0f : -1.0f);
  for (int h = 0; h < heads; h += 3) batch.at(4, h, h % kWidth) = bf16_of(NAN);
  for (int h = 0; h < heads; h += 3) batch.at(5, h, 511) = bf16_of(h % 2 == 0 ? kInfinity : -kInfinity);
  judge("odd", batch, pool, splits, false);
}

}  // namespace

std::vector<int32_t> distinct(uint64_t seed, int count, int range) {
  std::vector<int32_t> all(static_cast<size_t>(range));
  for (int i = 0; i < range; ++i) all[i] = i;
  for (int i = 0; i < count; ++i) std::swap(all[i], all[i + mix(seed << 32 | i) % (range - i)]);
  all.resize(count);
  std::sort(all.begin(), all.end());
  return all;
}

void check(bool small) {
  for (const CudaRows form : {CudaRows::kFp8, CudaRows::kBf16}) {
    Pool pool(form, small ? 512 : 4096, 1);
    pool.read();
    for (const int heads : {128, 64, 32, 16, 8}) {
      if (form == CudaRows::kBf16 && heads < 64) continue;
      if (small) {
        Batch batch(heads, 128, lists_of({100, 1}, pool.rows, 3), 2);
        for (const int splits : {1, 2}) judge("small", batch, pool, splits, splits == 2);
        continue;
      }
      Batch batch(heads, 2048, lists_of({2048, 1, 63, 64, 65, 2047, 129, 320}, pool.rows, 3), 2);
      for (const int splits : {1, 2, 7, 32}) judge("lists", batch, pool, splits, splits == 2);
      if (form == CudaRows::kFp8)
        for (const int block : {8, 16})
          if (block < heads) judge("blocks", batch, pool, 4, false, block);
      Batch narrow(heads, 100, lists_of({100, 99, 37}, pool.rows, 5), 4);
      judge("narrow", narrow, pool, 2, true);
      check_odd(heads, form, 1);
      check_odd(heads, form, 3);
      check_batches(heads, pool, 1);
      check_batches(heads, pool, 4);
    }
  }
}

void check_same() {
  Pool pool(CudaRows::kFp8, 4096, 1);
  for (const int heads : {128, 64, 32, 16, 8}) {
    Batch batch(heads, 2048, lists_of({2048, 1500, 300}, pool.rows, 3), 2);
    const Result first = run(batch, pool, 8, false, false);
    int differ = 0;
    for (int i = 0; i < 1000; ++i) {  // the second of two launches, a dependent one
      const Result again = run(batch, pool, 8, false, false, 2);
      differ += std::memcmp(first.out.data(), again.out.data(), first.out.size() * 2) != 0;
    }
    std::printf("same: heads %d, 2,000 launches, every second compared: %d differ\n", heads, differ);
    claim(differ == 0, "launches differ");
  }
}

}  // namespace fulgurite::sparse_attention::probe

int main(int count, char** words) {
  using namespace fulgurite::sparse_attention::probe;
  const std::string what = count > 1 ? words[1] : "check";
  if (what == "check" || what == "small") check(what == "small");
  if (what == "same") check_same();
  if (what == "time") {
    time_decode(count > 2 ? words[2] : "");
    if (count <= 2) time_prefill();
  }
  if (what == "parts") time_parts();
  if (what == "prefill") time_prefill();
  if (what == "one") run_one(count > 2 ? words[2] : "128x128");
  report_checks(what.c_str());
  return failed() != 0;
}
