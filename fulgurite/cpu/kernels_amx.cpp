// AVX-512 with dot products of bf16 pairs, and tiles of them. Flags: cmake/isa.cmake.

#include "fulgurite/cpu/kernels_avx512_bf16_body.h"
#include "fulgurite/cpu/kernels_table.h"
#include "fulgurite/cpu/products_amx_body.h"

namespace {

// The registers of the machine. (Instructions by name: the intrinsics take no template's argument.)
struct MachineTiles {
  void configure(const pairs_in_tiles::Configuration& to) { asm volatile("ldtilecfg %0" ::"m"(to)); }
  void release() { asm volatile("tilerelease"); }
  template <int tile>
  void zero() {
    asm volatile("tilezero %%tmm%c0" ::"i"(tile));
  }
  template <int tile>
  void load(const void* base, int64_t stride) {
    asm volatile("tileloadd (%0,%1,1), %%tmm%c2" ::"r"(base), "r"(stride), "i"(tile) : "memory");
  }
  template <int tile>
  void store(void* base, int64_t stride) {
    asm volatile("tilestored %%tmm%c2, (%0,%1,1)" ::"r"(base), "r"(stride), "i"(tile) : "memory");
  }
  template <int sum, int rows, int panel>
  void multiply() {
    asm volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(sum), "i"(rows), "i"(panel));
  }
};

// Rows whose pairs are apart cannot be loaded as a tile.
void products_by_tiles(const PairRows& a, int64_t pairs, const Panels& b, const Sums& c) {
  if (a.pair_stride != 2) return pairs_in_registers::products(a, pairs, b, c);
  MachineTiles tiles;
  pairs_in_tiles::products(tiles, a, pairs, b, c);
}

// peak_pairs by tiles: four sums, 16 x 16 sums of 32 products a multiplication.
int64_t peak_by_tiles(int64_t rounds, float* out) {
  alignas(64) float values[16 * 16] = {};
  MachineTiles tiles;
  tiles.configure(pairs_in_tiles::Configuration(16, 16));
  tiles.zero<0>(), tiles.zero<1>(), tiles.zero<2>(), tiles.zero<3>();
  tiles.load<4>(values, 64), tiles.load<5>(values, 64), tiles.load<6>(values, 64), tiles.load<7>(values, 64);
  for (int64_t round = 0; round < rounds; ++round) {
    tiles.multiply<0, 4, 6>();
    tiles.multiply<1, 4, 7>();
    tiles.multiply<2, 5, 6>();
    tiles.multiply<3, 5, 7>();
  }
  tiles.store<0>(values, 64);
  tiles.release();
  out[0] += values[0];
  return rounds * 4 * (16 * 16 * 32) * 2;
}

}  // namespace

namespace fulgurite::cpu {

const Kernels& kernels_amx() {
  static constexpr Kernels kOwn = [] {
    Kernels own = table_with_pairs();
    own.products = products_by_tiles;
    own.products_e4m3 =
        products_e4m3<panels_in_registers::pack_e4m3, panels_in_registers::pack_scaled, products_by_tiles>;
    own.products_columns = products_columns<panels_in_registers::widen_e4m3, products_by_tiles>;
    own.peak_pairs = peak_by_tiles;
    return own;
  }();
  return kOwn;
}

}  // namespace fulgurite::cpu
