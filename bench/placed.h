#pragma once
// What an operation is given, in a device's memory: a copy of every region of an arena that its Args point into, and
// Args that point there.
//
// Args are moved as what they are, trivially copyable objects of pointers and numbers: each word of one that is an
// address inside the arena becomes the address of the same byte in the copy. No number of theirs is as large as an
// address, and a new field of an operation is moved like the others.

#include <memory>
#include <type_traits>
#include <vector>

#include "bench/arena.h"
#include "fulgurite/core/memory.h"

namespace fulgurite::bench {

class Copies {
 public:
  // Moves the pointers of `args`, which point into the arena, to copies in `memory`.
  Copies(const Arena& arena, std::span<std::byte> args, const Memory& memory, void* stream);
  // The same of the copies of `other`, in their memory.
  Copies(const Copies& other, std::span<std::byte> args, void* stream);
  Copies(const Copies&) = delete;
  Copies& operator=(const Copies&) = delete;

  // What an operation writes, back into the arena, after the stream's work.
  void read_back(void* stream) const;
  int64_t bytes() const { return data_.size(); }

 private:
  struct Piece {
    const std::byte* from;
    std::byte* to;
    std::span<std::byte> in_arena;
    Arena::Kind kind;
  };

  void allocate(const Memory& memory);
  void move_pointers(std::span<std::byte> object) const;

  std::vector<Piece> pieces_;
  Buffer data_;
  std::vector<std::unique_ptr<uint64_t[]>> objects_;  // the host's, as Args are
};

template <class Args>
class Placed {
 public:
  Placed(const Arena& arena, const Args& args, const Memory& memory, void* stream)
      : args_(args), copies_(arena, bytes(), memory, stream) {}
  Placed(const Placed& other, void* stream) : args_(other.args_), copies_(other.copies_, bytes(), stream) {}

  const Args& args() const { return args_; }
  const Copies& copies() const { return copies_; }

 private:
  static_assert(std::is_trivially_copyable_v<Args>);
  std::span<std::byte> bytes() { return {reinterpret_cast<std::byte*>(&args_), sizeof(Args)}; }

  Args args_;
  Copies copies_;
};

}  // namespace fulgurite::bench
