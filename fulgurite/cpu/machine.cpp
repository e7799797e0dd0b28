#include "fulgurite/cpu/machine.h"

#include <sched.h>

#include <algorithm>
#include <charconv>
#include <fstream>
#include <optional>
#include <thread>

#include "fulgurite/cpu/kernels.h"
#include "fulgurite/cpu/parallel_for.h"

namespace fulgurite::cpu {
namespace {

// The rest of the first line of `path` that begins with `key`, blanks and colon stripped.
std::optional<std::string> value_after(const char* path, std::string_view key) {
  std::ifstream file(path);
  for (std::string line; std::getline(file, line);) {
    if (!line.starts_with(key)) continue;
    const size_t at = line.find_first_not_of(" \t:", key.size());
    return at == std::string::npos ? std::string() : line.substr(at);
  }
  return std::nullopt;
}

// "123 kB", "123" -> 123; nothing for "max".
std::optional<int64_t> number(const std::optional<std::string>& text) {
  int64_t value = 0;
  if (!text || std::from_chars(text->data(), text->data() + text->size(), value).ec != std::errc())
    return std::nullopt;
  return value;
}

int64_t available_bytes() {
  int64_t available = INT64_MAX;
  if (const auto kib = number(value_after("/proc/meminfo", "MemAvailable"))) available = *kib * 1024;
  const auto limit = number(value_after("/sys/fs/cgroup/memory.max", ""));
  const auto used = number(value_after("/sys/fs/cgroup/memory.stat", "anon"));
  if (limit) available = std::min(available, std::max<int64_t>(0, *limit - used.value_or(0)));
  return available;
}

int usable_processors() {
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof set, &set) == 0) return std::max(1, CPU_COUNT(&set));
  return std::max(1u, std::thread::hardware_concurrency());
}

void start_threads(int threads) {
  parallel_for(threads, threads, [](int64_t, int64_t, int) {});
}

}  // namespace

Device machine() {
  Device device;
  device.target = {DeviceKind::kCpu, best_isa()};
  device.model = value_after("/proc/cpuinfo", "model name").value_or("unknown CPU");
  device.threads = usable_processors();
  device.start_threads = start_threads;
  device.available_bytes = available_bytes();
  return device;
}

int64_t anonymous_resident_bytes() {
  return number(value_after("/proc/self/status", "RssAnon")).value_or(0) * 1024;
}

}  // namespace fulgurite::cpu
