#include "bench/replay.h"

#include <algorithm>
#include <chrono>

#if defined(__CUDACC__)
#include "fulgurite/cuda/check.h"
#endif

namespace fulgurite::bench {
namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

}  // namespace

#if defined(__CUDACC__)

namespace {

using cuda::check;

constexpr int kBatch = 16;  // replays that stand in the stream at once

class Graph {
 public:
  Graph(cudaStream_t stream, const std::function<void()>& calls) {
    check(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal), "cudaStreamBeginCapture");
    cudaGraph_t graph = nullptr;
    try {
      calls();
    } catch (...) {
      cudaStreamEndCapture(stream, &graph);
      if (graph != nullptr) cudaGraphDestroy(graph);
      throw;
    }
    check(cudaStreamEndCapture(stream, &graph), "cudaStreamEndCapture");
    const cudaError_t made = cudaGraphInstantiate(&graph_, graph, 0);
    cudaGraphDestroy(graph);
    check(made, "cudaGraphInstantiate");
  }
  ~Graph() { cudaGraphExecDestroy(graph_); }
  Graph(const Graph&) = delete;
  Graph& operator=(const Graph&) = delete;

  void launch(cudaStream_t stream) const { check(cudaGraphLaunch(graph_, stream), "cudaGraphLaunch"); }

 private:
  cudaGraphExec_t graph_ = nullptr;
};

class Events {
 public:
  explicit Events(int count) : events_(static_cast<size_t>(count)) {
    for (cudaEvent_t& event : events_) check(cudaEventCreate(&event), "cudaEventCreate");
  }
  ~Events() {
    for (const cudaEvent_t event : events_) cudaEventDestroy(event);
  }
  Events(const Events&) = delete;
  Events& operator=(const Events&) = delete;

  void record(int i, cudaStream_t stream) {
    check(cudaEventRecord(events_[static_cast<size_t>(i)], stream), "cudaEventRecord");
  }
  // Between event i and the next.
  double seconds(int i) const {
    float milliseconds = 0.0f;
    check(cudaEventElapsedTime(&milliseconds, events_[static_cast<size_t>(i)],
                               events_[static_cast<size_t>(i) + 1]),
          "cudaEventElapsedTime");
    return static_cast<double>(milliseconds) * 1e-3;
  }

 private:
  std::vector<cudaEvent_t> events_;
};

}  // namespace

std::vector<double> replay_times(const Accelerator& gpu, void* stream, const std::function<void()>& calls,
                                 int fewest, double seconds) {
  const auto queue = static_cast<cudaStream_t>(stream);
  const Graph graph(queue, calls);
  Events events(kBatch + 2);
  std::vector<double> times;
  const Clock::time_point start = Clock::now();
  while (static_cast<int>(times.size()) < fewest || seconds_since(start) < seconds) {
    const int count = std::min(kBatch, std::max(fewest, 1));
    events.record(0, queue);
    for (int i = 0; i <= count; ++i) {
      graph.launch(queue);
      events.record(i + 1, queue);
    }
    gpu.wait(stream);
    for (int i = 1; i <= count; ++i) times.push_back(events.seconds(i));
  }
  return times;
}

#else

std::vector<double> replay_times(const Accelerator& gpu, void* stream, const std::function<void()>& calls,
                                 int fewest, double seconds) {
  std::vector<double> times;
  const Clock::time_point first = Clock::now();
  while (static_cast<int>(times.size()) < fewest || seconds_since(first) < seconds) {
    const Clock::time_point start = Clock::now();
    calls();
    gpu.wait(stream);
    times.push_back(seconds_since(start));
  }
  return times;
}

#endif

}  // namespace fulgurite::bench
