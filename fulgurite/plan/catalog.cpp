#include "fulgurite/plan/catalog.h"

namespace fulgurite::plan {
namespace {

constexpr const embedding::Implementation* kEmbedding[] = {&embedding::kCpu, &embedding::kReference,
                                                           &embedding::kCudaHopper, &embedding::kCuda};
constexpr const norm::Implementation* kNorm[] = {&norm::kCpu, &norm::kReference, &norm::kCudaHopper,
                                                 &norm::kCuda};
constexpr const linear::Implementation* kLinear[] = {
    &linear::kCpuFp8,   &linear::kCpuBf16, &linear::kCpu,         &linear::kReference, &linear::kCudaHopper,
    &linear::kCudaBf16, &linear::kCudaFp8, &linear::kCublasltFp8, &linear::kCuda};
constexpr const rotary::Implementation* kRotary[] = {&rotary::kCpu, &rotary::kReference, &rotary::kCudaHopper,
                                                     &rotary::kCuda};
constexpr const latent_prepare::Implementation* kLatentPrepare[] = {
    &latent_prepare::kCpu, &latent_prepare::kReference, &latent_prepare::kCudaHopper, &latent_prepare::kCuda};
constexpr const indexer_projection::Implementation* kIndexerProjection[] = {
    &indexer_projection::kCpuBf16,   &indexer_projection::kCpuFp8,     &indexer_projection::kCpu,
    &indexer_projection::kReference, &indexer_projection::kCudaHopper, &indexer_projection::kCuda};
constexpr const indexer_prepare::Implementation* kIndexerPrepare[] = {
    &indexer_prepare::kCpu, &indexer_prepare::kReference, &indexer_prepare::kCudaHopper,
    &indexer_prepare::kCuda};
constexpr const index_select::Implementation* kIndexSelect[] = {
    &index_select::kCpuPairs, &index_select::kCpu, &index_select::kReference, &index_select::kCudaHopper,
    &index_select::kCuda};
constexpr const head_projection::Implementation* kHeadProjection[] = {
    &head_projection::kCpuBf16, &head_projection::kCpu, &head_projection::kReference,
    &head_projection::kCudaHopper, &head_projection::kCuda};
constexpr const sparse_attention::Implementation* kSparseAttention[] = {
    &sparse_attention::kCpuPairs, &sparse_attention::kCpu, &sparse_attention::kReference,
    &sparse_attention::kCudaHopper, &sparse_attention::kCuda};
constexpr const expanded_attention::Implementation* kExpandedAttention[] = {
    &expanded_attention::kCpu, &expanded_attention::kReference, &expanded_attention::kCuda};
constexpr const router::Implementation* kRouter[] = {&router::kCpuBf16, &router::kCpu, &router::kReference,
                                                     &router::kCudaHopper, &router::kCuda};
constexpr const experts::Implementation* kExperts[] = {
    &experts::kCpuFp8, &experts::kCpu, &experts::kReference, &experts::kCudaHopper, &experts::kCuda};
constexpr const hyper_connection::Implementation* kHyperConnection[] = {
    &hyper_connection::kCpu, &hyper_connection::kReference, &hyper_connection::kCudaHopper,
    &hyper_connection::kCuda};
constexpr const query_prepare::Implementation* kQueryPrepare[] = {
    &query_prepare::kCpu, &query_prepare::kReference, &query_prepare::kCudaHopper, &query_prepare::kCuda};
constexpr const kv_prepare::Implementation* kKvPrepare[] = {&kv_prepare::kCpu, &kv_prepare::kReference,
                                                            &kv_prepare::kCudaHopper, &kv_prepare::kCuda};
constexpr const compressor::Implementation* kCompressor[] = {&compressor::kCpuBf16, &compressor::kCpu,
                                                             &compressor::kReference,
                                                             &compressor::kCudaHopper, &compressor::kCuda};
constexpr const compressed_attention::Implementation* kCompressedAttention[] = {
    &compressed_attention::kCpuPairs, &compressed_attention::kCpu, &compressed_attention::kReference,
    &compressed_attention::kCudaHopper, &compressed_attention::kCuda};
constexpr const largest_logits::Implementation* kLargestLogits[] = {
    &largest_logits::kCpu, &largest_logits::kReference, &largest_logits::kCudaHopper, &largest_logits::kCuda};

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
                                    kHyperConnection,
                                    kQueryPrepare,
                                    kKvPrepare,
                                    kCompressor,
                                    kCompressedAttention,
                                    kLargestLogits};
  return kCatalog;
}

bool are_built(DeviceKind device) {
#if defined(FULGURITE_CUDA)
  return device == DeviceKind::kCpu || device == DeviceKind::kCuda;
#else
  return device == DeviceKind::kCpu;
#endif
}

}  // namespace fulgurite::plan
