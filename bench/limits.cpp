#include "bench/limits.h"

#include <algorithm>
#include <atomic>
#include <charconv>
#include <chrono>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <map>
#include <string>

#include "fulgurite/cpu/kernels.h"
#include "fulgurite/cpu/parallel_for.h"

namespace fulgurite::bench {
namespace {

constexpr int64_t kMiB = int64_t{1} << 20;
constexpr int64_t kCachesFlushed = 3;

std::string first_line(const std::filesystem::path& path) {
  std::ifstream file(path);
  std::string line;
  std::getline(file, line);
  return line;
}

// "32768K", "32M" -> bytes.
int64_t size_in_bytes(const std::string& text) {
  int64_t value = 0;
  const auto end = std::from_chars(text.data(), text.data() + text.size(), value).ptr;
  const char unit = end == text.data() + text.size() ? ' ' : *end;
  return unit == 'K' ? value * 1024 : unit == 'M' ? value * kMiB : value;
}

// Sums are kept where the compiler cannot leave them out.
std::atomic<uint64_t> g_read{0};

typedef uint64_t Sixteen __attribute__((vector_size(16)));

// One ascending stream, a cache line a turn; prefetches `ahead` bytes ahead unless that is 0.
void read_stream(std::span<const std::byte> bytes, int64_t ahead) {
  Sixteen sums[4] = {};
  const std::byte* at = bytes.data();
  for (const std::byte* const end = at + bytes.size() / 64 * 64; at < end; at += 64) {
    if (ahead > 0) __builtin_prefetch(at + ahead, 0, 0);
    for (int i = 0; i < 4; ++i) {
      Sixteen value;
      std::memcpy(&value, at + 16 * i, sizeof value);
      sums[i] ^= value;
    }
  }
  const Sixteen sum = sums[0] ^ sums[1] ^ sums[2] ^ sums[3];
  g_read.fetch_xor(sum[0] ^ sum[1], std::memory_order_relaxed);
}

void read_together(std::span<const std::byte> bytes, int64_t ahead, const Lane& lane) {
  const auto lines = static_cast<int64_t>(bytes.size()) / 64;
  cpu::parallel_for(lane, lines, [&](int64_t begin, int64_t end, int) {
    read_stream(bytes.subspan(static_cast<size_t>(begin * 64), static_cast<size_t>((end - begin) * 64)),
                ahead);
  });
}

template <class Body>
double seconds_of(const Body& body) {
  const auto start = std::chrono::steady_clock::now();
  body();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

double read_bandwidth(const LargeBuffer& buffer, const Lane& lane) {
  constexpr int kPasses = 5;
  double fastest = 1e30;
  for (const int64_t ahead : {0, 2048})
    for (int pass = 0; pass < kPasses; ++pass)
      fastest = std::min(fastest, seconds_of([&] { read_together(buffer.bytes(), ahead, lane); }));
  return static_cast<double>(buffer.bytes().size()) / fastest;
}

double peak(int64_t (*entry)(int64_t rounds, float* out), const Lane& lane) {
  constexpr int kPasses = 7;
  std::atomic<int64_t> operations{0};
  const auto pass = [&](int64_t rounds) {
    operations = 0;
    return seconds_of([&] {
      cpu::parallel_for(lane, lane.threads, [&](int64_t, int64_t, int) {
        float sums[16] = {};
        operations += entry(rounds, sums);
        g_read.fetch_xor(sums[0] > 0.0f ? 1 : 2, std::memory_order_relaxed);
      });
    });
  };
  int64_t rounds = 1 << 14;
  while (pass(rounds) < 0.02) rounds *= 2;
  double best = 0.0;
  for (int i = 0; i < kPasses; ++i) {
    const double seconds = pass(rounds);
    best = std::max(best, static_cast<double>(operations) / seconds);
  }
  return best;
}

}  // namespace

int64_t cache_bytes() {
  namespace fs = std::filesystem;
  // A cache that several processors share is listed by each of them.
  std::map<std::string, int64_t> caches;
  std::error_code none;
  for (const auto& processor : fs::directory_iterator("/sys/devices/system/cpu", none)) {
    for (const auto& cache : fs::directory_iterator(processor.path() / "cache", none)) {
      const std::string level = first_line(cache.path() / "level");
      if (level != "2" && level != "3" && level != "4") continue;
      caches[level + " " + first_line(cache.path() / "shared_cpu_list")] =
          size_in_bytes(first_line(cache.path() / "size"));
    }
  }
  int64_t total = 0;
  for (const auto& [name, bytes] : caches) total += bytes;
  return total > 0 ? total : 64 * kMiB;
}

int64_t LargeBuffer::size() { return std::max(256 * kMiB, 4 * cache_bytes()); }

LargeBuffer::LargeBuffer(const Lane& lane) : memory_(size(), Pages::kSmall) {
  const std::span<std::byte> bytes = memory_.bytes();
  cpu::parallel_for(lane, memory_.size(), [&](int64_t begin, int64_t end, int) {
    std::memset(bytes.data() + begin, 1, static_cast<size_t>(end - begin));
  });
}

int64_t LargeBuffer::flushed_bytes() {
  static const int64_t kBytes = kCachesFlushed * cache_bytes();
  return kBytes;
}

void LargeBuffer::flush(const Lane& lane) const {
  read_together(bytes().first(static_cast<size_t>(flushed_bytes())), 0, lane);
}

Limits measure_limits(const LargeBuffer& buffer, Isa isa, const Lane& lane) {
  const cpu::Kernels& kernels = cpu::kernels(isa);
  return {lane.threads, read_bandwidth(buffer, lane), peak(kernels.peak_pairs, lane),
          peak(kernels.peak_fp32, lane)};
}

}  // namespace fulgurite::bench
