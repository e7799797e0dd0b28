// v4_steps_probe time: graphs of dependent launches; weights come from memory, the rest lies in the second level.

#include "bench/cuda/v4_steps_probe.h"
#include "fulgurite/ops/compressor/compressor_rules.h"
#include "fulgurite/ops/hyper_connection/hyper_connection_rules.h"

namespace fulgurite::probe {
namespace {

constexpr double kBytesOfMicrosecond = 3.11e6;

struct Pool {
  std::byte* data = nullptr;
  size_t used = 0;
  explicit Pool(size_t bytes) {
    MUST(cudaMalloc(&data, bytes));
    MUST(cudaMemset(data, 0x3C, bytes));  // small numbers in either type
  }
  Pool(const Pool&) = delete;
  ~Pool() { cudaFree(data); }
  template <class T>
  T* take(size_t count) {
    T* const at = reinterpret_cast<T*>(data + used);
    used += (count * sizeof(T) + 255) / 256 * 256;
    return at;
  }
};

void print(const char* what, int64_t tokens, const Time& time, double bytes) {
  std::printf("%-34s tokens %5d: %8.2f us (%.2f to %.2f), floor %.2f\n", what, int(tokens), time.median,
              time.low, time.high, bytes / kBytesOfMicrosecond);
  std::fflush(stdout);
}

void time_hyper_connection(const char* what, int64_t hidden, int64_t tokens, bool mixes = true) {
  hyper_connection::Problem problem{cuda_setting("serving"), hidden};
  problem.largest_batch = tokens;
  if (!mixes) problem.sinkhorn_iterations = 1;
  constexpr int kSets = 64;
  const auto h = static_cast<size_t>(hidden), t = static_cast<size_t>(tokens);
  Pool pool(kSets * 24 * 4 * h * 4 + t * h * 2 * 11 + t * 500 + (size_t{256} << 20));
  float* const fn = pool.take<float>(kSets * 24 * 4 * h);
  fill(fn, kSets * 24 * 4 * h, 3);  // m around 100: Sinkhorn needs all its rounds
  hyper_connection::Args args;
  const View<bf16, 3> streams(pool.take<bf16>(t * 4 * h), {tokens, 4, hidden});
  const View<bf16, 2> block(pool.take<bf16>(t * h), {tokens, hidden});
  fill(reinterpret_cast<uint16_t*>(streams.data), t * 4 * h, 5);
  fill(reinterpret_cast<uint16_t*>(block.data), t * h, 6);
  args.streams = View<const bf16, 3>(streams);
  args.block = View<const bf16, 2>(block);
  args.post_out = {pool.take<float>(t * 4), {tokens, 4}};
  args.mix_out = {pool.take<float>(t * 16), {tokens, 4, 4}};
  float* const before = pool.take<float>(t * 20);
  fill(before, t * 20, 8);
  args.post = View<const float, 2>(before, {tokens, 4});
  args.mix = View<const float, 3>(before + t * 4, {tokens, 4, 4});
  float* const base = pool.take<float>(27);
  fill(base, 27, 9);
  args.base = {base, {24}};
  args.scale = {base + 24, {3}};
  args.streams_out = View<bf16, 3>(pool.take<bf16>(t * 4 * h), {tokens, 4, hidden});
  args.collapsed = View<bf16, 2>(pool.take<bf16>(t * h), {tokens, hidden});
  Lane lane;
  const auto bytes = static_cast<size_t>(hyper_connection::kCudaHopper.workspace_bytes(problem, 1));
  lane.workspace = {pool.take<std::byte>(bytes), bytes};
  const Time time = time_graph(kSets, [&](int i, cudaStream_t stream) {
    args.fn = {fn + static_cast<size_t>(i) * 24 * 4 * h, {24, 4 * hidden}};
    lane.stream = stream;
    hyper_connection::kCudaHopper.run(problem, args, lane);
  });
  print(what, tokens, time, 24.0 * 16 * double(h) + double(tokens) * double(h) * 20);
}

void time_compressor(const char* what, int64_t hidden, int64_t ratio, compressor::Kind kind, int64_t tokens,
                     int64_t sequences, int64_t first) {
  const int64_t dim = kind == compressor::Kind::kEntries ? 512 : 128;
  compressor::Problem problem{cuda_setting("serving"), hidden, ratio, dim, 64, 1e-6f, kind};
  problem.setting.target.multiprocessors = 132;
  problem.wkv = problem.wgate = MatrixFormat{MatrixForm::kBF16, {}};
  problem.sequences = sequences;
  problem.entries = (first + tokens) / ratio + 1;
  problem.largest_batch = tokens;
  const int64_t columns = width(problem);
  const size_t elements = static_cast<size_t>(2 * columns * hidden), t = static_cast<size_t>(tokens);
  const int sets = std::max(4, static_cast<int>((size_t{220} << 20) / (elements * 2)));
  Pool pool(elements * 2 * static_cast<size_t>(sets) + (size_t{1} << 30));
  uint16_t* const weights = pool.take<uint16_t>(elements * static_cast<size_t>(sets));
  fill(weights, elements * static_cast<size_t>(sets), 3);
  std::vector<PreparedMatrix> matrices(static_cast<size_t>(2 * sets));
  for (int i = 0; i < 2 * sets; ++i) {
    PreparedMatrix& matrix = matrices[static_cast<size_t>(i)];
    matrix.out = columns, matrix.in = hidden;
    matrix.as = View<const bf16, 2>(
        reinterpret_cast<const bf16*>(weights + static_cast<size_t>(i) * elements / 2), {columns, hidden});
  }
  compressor::Args args;
  uint16_t* const x = pool.take<uint16_t>(t * static_cast<size_t>(hidden));
  fill(x, t * static_cast<size_t>(hidden), 4);
  args.x = View<const bf16, 2>(reinterpret_cast<const bf16*>(x), {tokens, hidden});
  const auto floats = [&](int64_t count) { return pool.take<float>(static_cast<size_t>(count)); };
  args.ape = {floats(ratio * columns), {ratio, columns}};
  args.norm = {floats(dim), {dim}};
  std::vector<TokenPlace> places;
  for (int64_t i = 0; i < tokens; ++i)
    places.push_back({static_cast<int32_t>(i * sequences / tokens),
                      static_cast<int32_t>(first + i % (tokens / sequences))});
  TokenPlace* const there = pool.take<TokenPlace>(t);
  MUST(cudaMemcpy(there, places.data(), t * sizeof(TokenPlace), cudaMemcpyHostToDevice));
  args.places = {there, {tokens}};
  const int64_t positions = first + tokens;
  args.table = {{floats(positions * 32), {positions, 32}}, {floats(positions * 32), {positions, 32}}};
  args.state = {floats(sequences * state_rows(problem) * 2 * columns),
                {sequences, state_rows(problem), 2, columns}};
  if (kind == compressor::Kind::kEntries) {
    const KvRow row = row_of(problem);
    const int64_t blocks = KvRow::blocks(problem.entries);
    args.entries = {row,
                    {pool.take<std::byte>(static_cast<size_t>(sequences * blocks * row.block_bytes())),
                     {sequences, blocks, row.block_bytes()}}};
  } else {
    args.keys.keys = View<bf16, 3>(pool.take<bf16>(static_cast<size_t>(sequences * problem.entries * dim)),
                                   {sequences, problem.entries, dim});
  }
  Lane lane;
  const auto bytes = static_cast<size_t>(compressor::kCudaHopper.workspace_bytes(problem, 1));
  lane.workspace = {pool.take<std::byte>(bytes), bytes};
  const Time time = time_graph(2 * sets, [&](int i, cudaStream_t stream) {
    args.wkv = &matrices[static_cast<size_t>(i % sets * 2)];
    args.wgate = &matrices[static_cast<size_t>(i % sets * 2 + 1)];
    lane.stream = stream;
    compressor::kCudaHopper.run(problem, args, lane);
  });
  print(what, tokens, time,
        double(elements) * 2 + double(tokens) * (double(hidden) * 2 + double(columns) * 8));
}

}  // namespace

void time_hyper_connections() {
  for (const int64_t tokens : {1, 2, 8, 16, 64, 512, 2048})
    time_hyper_connection("hyper_connection 4096", 4096, tokens);
  for (const int64_t tokens : {1, 16, 512}) time_hyper_connection("hyper_connection 7168", 7168, tokens);
  for (const int64_t tokens : {1, 16})
    time_hyper_connection("hyper_connection 4096, 1 iteration", 4096, tokens, false);
}

void time_compressors() {
  using compressor::Kind;
  for (const int64_t tokens : {1, 2, 8, 16, 17, 32, 64, 128}) {
    time_compressor("compressor ratio 4, open", 4096, 4, Kind::kEntries, tokens, tokens, 6);
    if (tokens < 17) time_compressor("compressor ratio 4, ends", 4096, 4, Kind::kEntries, tokens, tokens, 7);
  }
  for (const int64_t tokens : {1, 16}) {
    time_compressor("compressor ratio 128, open", 4096, 128, Kind::kEntries, tokens, tokens, 130);
    time_compressor("compressor ratio 128, ends", 4096, 128, Kind::kEntries, tokens, tokens, 255);
    time_compressor("compressor keys, ends", 4096, 4, Kind::kIndexKeys, tokens, tokens, 7);
    time_compressor("compressor ratio 4, ends, 7168", 7168, 4, Kind::kEntries, tokens, tokens, 7);
  }
  for (const int64_t tokens : {512, 2048}) {
    time_compressor("compressor ratio 4, prefill", 4096, 4, Kind::kEntries, tokens, 1, 0);
    time_compressor("compressor ratio 128, prefill", 4096, 128, Kind::kEntries, tokens, 1, 0);
    time_compressor("compressor keys, prefill", 4096, 4, Kind::kIndexKeys, tokens, 1, 0);
  }
}

}  // namespace fulgurite::probe
