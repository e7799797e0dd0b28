// The loops of kernels_body.h with those that dot products of bf16 pairs and look-ups of bytes make faster.
// No #pragma once: it is a body.

#include <cstdint>

namespace {
constexpr int kRegisterBytes = 64;
constexpr int kTileRows = 4;
constexpr int kTileColumns = 4;
}  // namespace

#include "fulgurite/cpu/kernels_body.h"
#include "fulgurite/cpu/panels_avx512_vbmi_body.h"
#include "fulgurite/cpu/products_avx512_bf16_body.h"
#include "fulgurite/cpu/widen_avx512_vbmi_body.h"
// after those:
#include "fulgurite/cpu/dots_avx512_bf16_body.h"
#include "fulgurite/cpu/dots_e2m1_avx512_bf16_body.h"
#include "fulgurite/cpu/products_columns_avx512_body.h"

namespace {

constexpr fulgurite::cpu::Kernels table_with_pairs() {
  fulgurite::cpu::Kernels table = kTable;
  table.widen_e4m3 = panels_in_registers::widen_e4m3;
  table.pack_e4m3 = panels_in_registers::pack_e4m3;
  table.pack_bf16 = panels_in_registers::pack_bf16;
  table.products = pairs_in_registers::products;
  table.widen_two = panels_in_registers::widen_two;
  table.rescaled_products = pairs_in_registers::rescaled_products;
  table.products_columns = codes_in_registers::products_columns;
  table.dots = dots_in_registers::dots;
  table.sum_quarters = dots_in_registers::sum_quarters;
  table.widen_e2m1 = dots_in_registers::widen_e2m1;
  table.dots_e2m1 = dots_in_registers::dots_e2m1;
  return table;
}

}  // namespace
