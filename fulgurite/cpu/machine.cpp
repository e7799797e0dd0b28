#include "fulgurite/cpu/machine.h"

#include <sched.h>

#include <algorithm>
#include <charconv>
#include <climits>
#include <fstream>
#include <optional>
#include <thread>

#include "fulgurite/cpu/kernels.h"
#include "fulgurite/cpu/thread_pool.h"

namespace fulgurite::cpu {
namespace {

// The rest of the first line of `path` that begins with `key`, blanks and colon stripped.
std::optional<std::string> value_after(const std::string& path, std::string_view key) {
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

// A file of the control group of this process (version 2): under the path that the process sees, else at the
// root.
std::string group_file(const std::string& name) {
  const std::string root = "/sys/fs/cgroup", path = value_after("/proc/self/cgroup", "0::").value_or("");
  const std::string own = root + path + "/" + name;
  return std::ifstream(own) ? own : root + "/" + name;
}

int64_t available_bytes() {
  int64_t available = INT64_MAX;
  if (const auto kib = number(value_after("/proc/meminfo", "MemAvailable"))) available = *kib * 1024;
  const auto limit = number(value_after(group_file("memory.max"), ""));
  const auto used = number(value_after(group_file("memory.stat"), "anon"));
  if (limit) available = std::min(available, std::max<int64_t>(0, *limit - used.value_or(0)));
  return available;
}

// The group's quota in whole processors, rounded up: "200000 100000" is 2.
int quota_processors() {
  const auto text = value_after(group_file("cpu.max"), "");
  const auto quota = number(text);
  if (!quota) return INT_MAX;
  const auto period = number(text->substr(text->find(' ') + 1));
  if (!period || *period <= 0) return INT_MAX;
  return static_cast<int>(std::clamp<int64_t>((*quota + *period - 1) / *period, 1, INT_MAX));
}

int usable_processors() {
  cpu_set_t set;
  const int allowed = sched_getaffinity(0, sizeof set, &set) == 0
                          ? CPU_COUNT(&set)
                          : static_cast<int>(std::thread::hardware_concurrency());
  return std::max(1, std::min(allowed, quota_processors()));
}

std::unique_ptr<Workers> make_workers(int threads) { return std::make_unique<ThreadPool>(threads); }

}  // namespace

Device machine() {
  Device device;
  device.target = {DeviceKind::kCpu, best_isa()};
  device.model = value_after("/proc/cpuinfo", "model name").value_or("unknown CPU");
  device.threads = usable_processors();
  device.make_workers = make_workers;
  device.available_bytes = available_bytes();
  return device;
}

int64_t anonymous_resident_bytes() {
  return number(value_after("/proc/self/status", "RssAnon")).value_or(0) * 1024;
}

}  // namespace fulgurite::cpu
