#pragma once
// The one list of every implementation, of each kind of device the preferred first. What is not listed here
// cannot run.

#include <span>

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
#include "fulgurite/ops/largest_logits/largest_logits.h"
#include "fulgurite/ops/latent_prepare/latent_prepare.h"
#include "fulgurite/ops/linear/linear.h"
#include "fulgurite/ops/norm/norm.h"
#include "fulgurite/ops/query_prepare/query_prepare.h"
#include "fulgurite/ops/rotary/rotary.h"
#include "fulgurite/ops/router/router.h"
#include "fulgurite/ops/sparse_attention/sparse_attention.h"

namespace fulgurite::plan {

template <class Implementation>
using Rows = std::span<const Implementation* const>;

struct Catalog {
  Rows<embedding::Implementation> embedding;
  Rows<norm::Implementation> norm;
  Rows<linear::Implementation> linear;
  Rows<rotary::Implementation> rotary;
  Rows<latent_prepare::Implementation> latent_prepare;
  Rows<indexer_projection::Implementation> indexer_projection;
  Rows<indexer_prepare::Implementation> indexer_prepare;
  Rows<index_select::Implementation> index_select;
  Rows<head_projection::Implementation> head_projection;
  Rows<sparse_attention::Implementation> sparse_attention;
  Rows<expanded_attention::Implementation> expanded_attention;
  Rows<router::Implementation> router;
  Rows<experts::Implementation> experts;
  Rows<hyper_connection::Implementation> hyper_connection;
  Rows<query_prepare::Implementation> query_prepare;
  Rows<kv_prepare::Implementation> kv_prepare;
  Rows<compressor::Implementation> compressor;
  Rows<compressed_attention::Implementation> compressed_attention;
  Rows<largest_logits::Implementation> largest_logits;
};

const Catalog& catalog();

// Were the kernels of this kind of device built?
bool are_built(DeviceKind device);

}  // namespace fulgurite::plan
