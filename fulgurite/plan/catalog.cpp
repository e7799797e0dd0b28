#include "fulgurite/plan/catalog.h"

namespace fulgurite::plan {
namespace {

constexpr const embedding::Implementation* kEmbedding[] = {&embedding::kCpu, &embedding::kReference};
constexpr const norm::Implementation* kNorm[] = {&norm::kCpu, &norm::kReference};
constexpr const linear::Implementation* kLinear[] = {
    &linear::kCpuFp8,  &linear::kCpuBf16,     &linear::kCpu, &linear::kReference,
    &linear::kCudaFp8, &linear::kCublasltFp8, &linear::kCuda};
constexpr const rotary::Implementation* kRotary[] = {&rotary::kCpu, &rotary::kReference};
constexpr const latent_prepare::Implementation* kLatentPrepare[] = {&latent_prepare::kCpu,
                                                                    &latent_prepare::kReference};
constexpr const indexer_projection::Implementation* kIndexerProjection[] = {
    &indexer_projection::kCpuBf16, &indexer_projection::kCpuFp8, &indexer_projection::kCpu,
    &indexer_projection::kReference};
constexpr const indexer_prepare::Implementation* kIndexerPrepare[] = {&indexer_prepare::kCpu,
                                                                      &indexer_prepare::kReference};
constexpr const index_select::Implementation* kIndexSelect[] = {&index_select::kCpuPairs, &index_select::kCpu,
                                                                &index_select::kReference};
constexpr const head_projection::Implementation* kHeadProjection[] = {
    &head_projection::kCpuBf16, &head_projection::kCpu, &head_projection::kReference};
constexpr const sparse_attention::Implementation* kSparseAttention[] = {
    &sparse_attention::kCpuPairs, &sparse_attention::kCpu, &sparse_attention::kReference};
constexpr const expanded_attention::Implementation* kExpandedAttention[] = {&expanded_attention::kCpu,
                                                                            &expanded_attention::kReference};
constexpr const router::Implementation* kRouter[] = {&router::kCpuBf16, &router::kCpu, &router::kReference};
constexpr const experts::Implementation* kExperts[] = {&experts::kCpuFp8, &experts::kCpu,
                                                       &experts::kReference};
constexpr const compressed_attention::Implementation* kCompressedAttention[] = {
    &compressed_attention::kCpuPairs, &compressed_attention::kCpu, &compressed_attention::kReference};

}  // namespace

const Catalog& catalog() {
  static constexpr Catalog kCatalog{kEmbedding,
                                    kNorm,
                                    kLinear,
                                    kRotary,
                                    kLatentPrepare,
                                    kIndexerProjection,
                                    kIndexerPrepare,
                                    kIndexSelect,
                                    kHeadProjection,
                                    kSparseAttention,
                                    kExpandedAttention,
                                    kRouter,
                                    kExperts,
                                    kCompressedAttention};
  return kCatalog;
}

}  // namespace fulgurite::plan
