#include "bench/placed.h"

#include <algorithm>
#include <cstring>

namespace fulgurite::bench {
namespace {

constexpr int64_t kAlignment = 1024;  // of a region in a device's memory: no kernel asks for more

// Calls with each aligned word of an object, and where it stands.
template <class Visit>
void for_each_word(std::span<std::byte> object, const Visit& visit) {
  for (size_t at = 0; at + sizeof(uint64_t) <= object.size(); at += sizeof(uint64_t)) {
    uint64_t word;
    std::memcpy(&word, object.data() + at, sizeof word);
    visit(word, object.data() + at);
  }
}

bool is_inside(uint64_t address, const std::byte* begin, size_t size) {
  return address - reinterpret_cast<uint64_t>(begin) < size;
}

// Indices of the regions that `object` points into, and of those that its objects do.
void find_regions(const std::vector<Arena::Region>& regions, std::span<std::byte> object,
                  std::vector<size_t>& found) {
  for_each_word(object, [&](uint64_t word, std::byte*) {
    for (size_t i = 0; i < regions.size(); ++i) {
      if (!is_inside(word, regions[i].bytes.data(), regions[i].bytes.size())) continue;
      if (std::ranges::find(found, i) != found.end()) return;
      found.push_back(i);
      if (regions[i].kind == Arena::Kind::kObjects) find_regions(regions, regions[i].bytes, found);
    }
  });
}

int64_t aligned(size_t bytes) {
  return (static_cast<int64_t>(bytes) + kAlignment - 1) / kAlignment * kAlignment;
}

}  // namespace

Copies::Copies(const Arena& arena, std::span<std::byte> args, const Memory& memory, void* stream) {
  std::vector<size_t> found;
  find_regions(arena.regions(), args, found);
  for (const size_t i : found) {
    const Arena::Region& region = arena.regions()[i];
    pieces_.push_back({region.bytes.data(), nullptr, region.bytes, region.kind});
  }
  allocate(memory);
  for (const Piece& piece : pieces_)
    if (piece.kind != Arena::Kind::kObjects)
      memory.write(piece.to, piece.from, static_cast<int64_t>(piece.in_arena.size()), stream);
  move_pointers(args);
}

Copies::Copies(const Copies& other, std::span<std::byte> args, void* stream) {
  for (const Piece& piece : other.pieces_) pieces_.push_back({piece.to, nullptr, piece.in_arena, piece.kind});
  const Memory& memory = other.data_.memory();
  allocate(memory);
  for (const Piece& piece : pieces_)
    if (piece.kind != Arena::Kind::kObjects)
      memory.copy(piece.to, piece.from, static_cast<int64_t>(piece.in_arena.size()), stream);
  move_pointers(args);
}

// Room for every piece; objects are copied and point to the copies.
void Copies::allocate(const Memory& memory) {
  int64_t bytes = kAlignment;
  for (const Piece& piece : pieces_)
    if (piece.kind != Arena::Kind::kObjects) bytes += aligned(piece.in_arena.size());
  data_ = Buffer(memory, bytes);
  const auto address = reinterpret_cast<uint64_t>(data_.data());
  std::byte* next = data_.data() + ((kAlignment - address % kAlignment) % kAlignment);
  for (Piece& piece : pieces_) {
    const size_t size = piece.in_arena.size();
    if (piece.kind != Arena::Kind::kObjects) {
      piece.to = next;
      next += aligned(size);
      continue;
    }
    objects_.push_back(std::make_unique<uint64_t[]>(size / sizeof(uint64_t) + 1));
    piece.to = reinterpret_cast<std::byte*>(objects_.back().get());
    std::memcpy(piece.to, piece.from, size);
  }
  for (const Piece& piece : pieces_)
    if (piece.kind == Arena::Kind::kObjects) move_pointers({piece.to, piece.in_arena.size()});
}

void Copies::move_pointers(std::span<std::byte> object) const {
  for_each_word(object, [&](uint64_t word, std::byte* at) {
    for (const Piece& piece : pieces_) {
      if (!is_inside(word, piece.from, piece.in_arena.size())) continue;
      const std::byte* const moved = piece.to + (word - reinterpret_cast<uint64_t>(piece.from));
      std::memcpy(at, &moved, sizeof moved);
      return;
    }
  });
}

void Copies::read_back(void* stream) const {
  for (const Piece& piece : pieces_)
    if (piece.kind == Arena::Kind::kOutput)
      data_.memory().read(piece.in_arena.data(), piece.to, static_cast<int64_t>(piece.in_arena.size()),
                          stream);
}

}  // namespace fulgurite::bench
