// Every operation names an argument whose elements are not of the type that the plan says.

#include <gtest/gtest.h>

#include <vector>

#include "fulgurite/core/check.h"
#include "fulgurite/ops/compressed_attention/compressed_attention.h"
#include "fulgurite/ops/compressor/compressor.h"
#include "fulgurite/ops/embedding/embedding.h"
#include "fulgurite/ops/expanded_attention/expanded_attention.h"
#include "fulgurite/ops/experts/experts.h"
#include "fulgurite/ops/head_projection/head_projection.h"
#include "fulgurite/ops/hyper_connection/hyper_connection.h"
#include "fulgurite/ops/index_select/index_select.h"
#include "fulgurite/ops/indexer_prepare/indexer_prepare.h"
#include "fulgurite/ops/indexer_projection/indexer_projection.h"
#include "fulgurite/ops/kv_prepare/kv_prepare.h"
#include "fulgurite/ops/latent_prepare/latent_prepare.h"
#include "fulgurite/ops/linear/linear.h"
#include "fulgurite/ops/norm/norm.h"
#include "fulgurite/ops/query_prepare/query_prepare.h"
#include "fulgurite/ops/rotary/rotary.h"
#include "fulgurite/ops/router/router.h"
#include "fulgurite/ops/sparse_attention/sparse_attention.h"
#include "test/op_test.h"

namespace fulgurite {
namespace {

// Zeros, for one token: a valid id, place and list too.
alignas(64) std::byte memory[4096];

template <int Rank>
Tensor<Rank> any(DType type, std::array<int64_t, Rank> extent) {
  Tensor<Rank> tensor = View<float, Rank>(reinterpret_cast<float*>(memory), extent);
  tensor.dtype = type;
  return tensor;
}
template <class T, int Rank>
View<T, Rank> typed(std::array<int64_t, Rank> extent) {
  return {reinterpret_cast<T*>(memory), extent};
}

using Types = std::vector<DType>;
struct Argument {
  const char* name;
  DType type;
};

// check(types) is given the type of each argument; each in turn is wrong.
template <class Check>
void expect_named(const char* operation, const std::vector<Argument>& arguments, const Check& check) {
  for (size_t i = 0; i < arguments.size(); ++i) {
    Types types;
    for (const Argument& argument : arguments) types.push_back(argument.type);
    types[i] = types[i] == DType::kF32 ? DType::kBF16 : DType::kF32;
    EXPECT_EQ(test::message_of([&] { check(types); }),
              fmt::format("{}: {}: expected {}, found {}", operation, arguments[i].name,
                          name(arguments[i].type), name(types[i])));
  }
}

const View<const TokenPlace, 1> places = typed<const TokenPlace, 1>({1});
const rotary::Table table{typed<const float, 2>({1, 1}), typed<const float, 2>({1, 1})};

void expect_of_steps_between_products(const Setting& setting) {
  const DType type = activation_type(setting.numerics);
  expect_named("embedding", {{"out", type}}, [&](const Types& t) {
    embedding::check({setting, 8, 4, {}}, {typed<const int32_t, 1>({1}), nullptr, any<2>(t[0], {1, 4})});
  });
  expect_named("norm", {{"x", type}, {"added", type}, {"sum", type}, {"out", type}}, [&](const Types& t) {
    norm::check({setting, 4, 1e-6f}, {any<2>(t[0], {1, 4}),
                                      any<2>(t[1], {1, 4}),
                                      {},
                                      typed<const float, 1>({4}),
                                      any<2>(t[2], {1, 4}),
                                      any<2>(t[3], {1, 4})});
  });
  expect_named("rotary", {{"x", type}}, [&](const Types& t) {
    rotary::check({setting, rotary::Layout::kInterleaved, 3, 2, 1}, {any<3>(t[0], {1, 3, 2}), places, table});
  });
  const latent_prepare::Problem latent{setting, 4, 2, 1e-6f, 1, 1};
  const LatentRow row = latent_prepare::row_of(latent);
  expect_named("latent_prepare", {{"kv", type}}, [&](const Types& t) {
    latent_prepare::check(latent, {any<2>(t[0], {1, 6}),
                                   typed<const float, 1>({4}),
                                   places,
                                   table,
                                   {row, typed<std::byte, 3>({1, 1, row.bytes()})}});
  });
}

void expect_of_products(const Setting& setting) {
  const DType type = activation_type(setting.numerics);
  expect_named("linear", {{"x", type}, {"y", type}}, [&](const Types& t) {
    linear::check({setting, 8, 4, {}, linear::Output::kActivation, 1},
                  {any<2>(t[0], {1, 8}), nullptr, any<2>(t[1], {1, 4})});
  });
  expect_named("linear", {{"x", type}, {"y", DType::kF32}}, [&](const Types& t) {
    linear::check({setting, 8, 4, {}, linear::Output::kF32, 1},
                  {any<2>(t[0], {1, 8}), nullptr, any<2>(t[1], {1, 4})});
  });
  expect_named("head_projection", {{"x", type}, {"y", type}}, [&](const Types& t) {
    head_projection::check({setting, head_projection::Direction::kToRows, 2, 3, 0, 3, 4, {}, 1},
                           {any<3>(t[0], {1, 2, 4}), nullptr, any<3>(t[1], {1, 2, 3})});
  });
  expect_named("indexer_projection", {{"x", type}, {"k", type}}, [&](const Types& t) {
    indexer_projection::check({setting, 8, 4, 2, {}, {}, 1}, {any<2>(t[0], {1, 8}), nullptr, nullptr,
                                                              any<2>(t[1], {1, 4}), typed<float, 2>({1, 2})});
  });
  expect_named("router", {{"x", type}}, [&](const Types& t) {
    router::check({setting, 8, 2, 1, 1, 1, 1.0f, {}},
                  {any<2>(t[0], {1, 8}), nullptr, typed<const float, 1>({2}), typed<int32_t, 2>({1, 1}),
                   typed<float, 2>({1, 1})});
  });
  expect_named("experts", {{"x", type}, {"out", type}}, [&](const Types& t) {
    experts::check({setting, 8, 0, 0, 0, 4, {}, {}, 1},
                   {any<2>(t[0], {1, 8}), {}, {}, {}, nullptr, any<2>(t[1], {1, 8})});
  });
}

void expect_of_indexer_and_attention(const Setting& setting) {
  const DType type = activation_type(setting.numerics);
  const DType operand = index_operand(setting.numerics);
  const std::vector<Argument> prepared{
      {"q", type}, {"k", type}, {"q_operand", operand}, {"key_cache", operand}};
  expect_named("indexer_prepare", prepared, [&](const Types& t) {
    const IndexKeys keys{any<3>(t[3], {1, 1, 4}), typed<float, 2>({1, 1})};
    indexer_prepare::check({setting, 2, 4, 2, rotary::Layout::kHalfSplit, 1, 1},
                           {any<3>(t[0], {1, 2, 4}),
                            any<2>(t[1], {1, 4}),
                            typed<const float, 2>({1, 2}),
                            typed<const float, 1>({4}),
                            typed<const float, 1>({4}),
                            places,
                            table,
                            typed<float, 2>({1, 2}),
                            keys,
                            any<3>(t[2], {1, 2, 4}),
                            {},
                            {}});
  });
  expect_named("index_select", {{"q", operand}, {"key_cache", operand}}, [&](const Types& t) {
    const IndexKeys keys{any<3>(t[1], {1, 1, 4}), typed<float, 2>({1, 1})};
    index_select::check({setting, 2, 4, 1, 1, 1, 1}, {any<3>(t[0], {1, 2, 4}),
                                                      typed<const float, 2>({1, 2}),
                                                      keys,
                                                      places,
                                                      typed<int32_t, 2>({1, 1}),
                                                      {}});
  });
  const sparse_attention::Problem sparse{setting, 2, 4, 2, 1, 1.0f, 1, 1, 1};
  expect_named("sparse_attention", {{"q", type}, {"q_rope", type}, {"out", type}}, [&](const Types& t) {
    const LatentRow row = sparse_attention::row_of(sparse);
    sparse_attention::check(sparse, {any<3>(t[0], {1, 2, 4}),
                                     any<3>(t[1], {1, 2, 2}),
                                     {row, typed<const std::byte, 3>({1, 1, row.bytes()})},
                                     typed<const int32_t, 2>({1, 1}),
                                     places,
                                     any<3>(t[2], {1, 2, 4})});
  });
  const expanded_attention::Problem expanded{setting, 2, 3, 2, 3, 4, 1, 1.0f, {}, 1, 1};
  expect_named("expanded_attention", {{"q", type}, {"out", type}}, [&](const Types& t) {
    const LatentRow row = expanded_attention::row_of(expanded);
    expanded_attention::check(expanded, {any<3>(t[0], {1, 2, 5}),
                                         nullptr,
                                         {row, typed<const std::byte, 3>({1, 1, row.bytes()})},
                                         typed<const int32_t, 2>({1, 1}),
                                         places,
                                         any<3>(t[1], {1, 2, 3})});
  });
}

KvRows kv_rows(const KvRow& row) { return {row, typed<std::byte, 3>({1, 1, row.block_bytes()})}; }

// DeepSeek-V4's own.
void expect_of_streams(const Setting& setting) {
  const DType type = activation_type(setting.numerics);
  hyper_connection::Problem streams;
  streams.setting = setting;
  streams.hidden = 2;
  const std::vector<Argument> mixed{
      {"streams", type}, {"block", type}, {"streams_out", type}, {"collapsed", type}};
  expect_named("hyper_connection", mixed, [&](const Types& t) {
    const View<float, 2> post = typed<float, 2>({1, 4});
    const View<float, 3> mix = typed<float, 3>({1, 4, 4});
    hyper_connection::check(streams, {any<3>(t[0], {1, 4, 2}),
                                      any<2>(t[1], {1, 2}),
                                      post,
                                      mix,
                                      {},
                                      typed<const float, 2>({24, 8}),
                                      typed<const float, 1>({24}),
                                      typed<const float, 1>({3}),
                                      any<3>(t[2], {1, 4, 2}),
                                      post,
                                      mix,
                                      any<2>(t[3], {1, 2})});
  });
  expect_named("query_prepare", {{"q", type}}, [&](const Types& t) {
    query_prepare::check({setting, 2, 4, 2, 1e-6f}, {any<3>(t[0], {1, 2, 4}), places, table, {}});
  });
  const kv_prepare::Problem kv{setting, 4, 2, 1e-6f, 1, 1};
  expect_named("kv_prepare", {{"kv", type}}, [&](const Types& t) {
    kv_prepare::check(kv, {any<2>(t[0], {1, 4}), typed<const float, 1>({4}), places, table,
                           kv_rows(kv_prepare::row_of(kv))});
  });
}

void expect_of_compressed_attention(const Setting& setting) {
  const DType type = activation_type(setting.numerics), key = index_operand(setting.numerics);
  const compressor::Problem keys{setting, 8, 4, 4, 2, 1e-6f, compressor::Kind::kIndexKeys, {}, {}, 1, 1, 1};
  const PreparedMatrix weight{typed<const float, 2>({8, 8}), 8, 8};
  expect_named("compressor", {{"x", type}, {"keys", key}}, [&](const Types& t) {
    const IndexKeys cache{any<3>(t[1], {1, 1, 4}), typed<float, 2>({1, 1})};
    compressor::check(keys, {any<2>(t[0], {1, 8}),
                             &weight,
                             &weight,
                             typed<const float, 2>({4, 8}),
                             typed<const float, 1>({4}),
                             places,
                             table,
                             typed<float, 4>({1, 8, 2, 8}),
                             {},
                             cache,
                             {},
                             {}});
  });
  const compressed_attention::Problem attention{setting, 2, 4, 2, 1, 0, 0, 1.0f, 1, 1, 0, 1, 1};
  expect_named("compressed_attention", {{"q", type}, {"out", type}}, [&](const Types& t) {
    compressed_attention::check(attention, {any<3>(t[0], {1, 2, 4}),
                                            typed<const float, 1>({2}),
                                            kv_rows(compressed_attention::row_of(attention)),
                                            {},
                                            {},
                                            places,
                                            table,
                                            any<3>(t[1], {1, 2, 4})});
  });
}

TEST(argument_types, of_every_operation_are_checked_by_name) {
  for (const Setting& setting : {test::fp32_setting(), test::serving_setting()}) {
    expect_of_steps_between_products(setting);
    expect_of_products(setting);
    expect_of_indexer_and_attention(setting);
    expect_of_streams(setting);
    expect_of_compressed_attention(setting);
  }
}

}  // namespace
}  // namespace fulgurite
