#pragma once
// Where the bytes of a session lie, and how they get there. A CPU's kernels read the host's memory. A GPU has
// memory of its own, and shares memory of the host: the second is slow, but both sides read it, so that a
// session can be looked into.

#include <cstddef>
#include <cstdint>

namespace fulgurite {

// A kind of memory: plain functions. `stream` is the device's queue of work (nullptr on a CPU): bytes move in
// its order.
struct Memory {
  const char* name;
  bool host_reads;                   // the host may follow its pointers
  void* (*allocate)(int64_t bytes);  // zero, 64-byte aligned, a GPU's 256-byte; throws Error{kMemory}
  void (*release)(void* data, int64_t bytes);  // throws nothing
  void (*write)(void* to, const void* from_host, int64_t bytes,
                void* stream);                                                 // `from_host` is free after it
  void (*read)(void* to_host, const void* from, int64_t bytes, void* stream);  // waits for it
  void (*copy)(void* to, const void* from, int64_t bytes, void* stream);
  void (*clear)(void* at, int64_t bytes, void* stream);
  // Row i of `to` becomes row rows[i] of `from`; all three lie in this memory.
  void (*gather)(void* to, const void* from, const int32_t* rows, int64_t count, int64_t row_bytes,
                 void* stream);
};

extern const Memory kHostMemory;

// What a device that is not the CPU adds to it.
struct Accelerator {
  const Memory* own;
  const Memory* shared;  // the host's, which its kernels read and write too
  void* (*open_stream)();
  void (*close_stream)(void* stream);
  void (*wait)(void* stream);  // until all is done; throws Error{kDevice} with what a kernel did wrong

  // Work that is recorded once and then runs as one: what is put on the stream between begin and end does not run,
  // and makes a recording. None: this accelerator cannot.
  void (*begin_recording)(void* stream) = nullptr;
  void* (*end_recording)(void* stream) = nullptr;
  void (*replay)(void* recording, void* stream) = nullptr;
  void (*release_recording)(void* recording) = nullptr;
};

// Owned bytes of a kind of memory, given back at the end of its life.
class Buffer {
 public:
  Buffer() = default;
  Buffer(const Memory& memory, int64_t bytes);  // throws Error{kMemory}
  Buffer(Buffer&& other) noexcept;
  Buffer& operator=(Buffer&& other) noexcept;
  ~Buffer();

  std::byte* data() const { return data_; }
  int64_t size() const { return size_; }
  const Memory& memory() const { return *memory_; }

 private:
  const Memory* memory_ = &kHostMemory;
  std::byte* data_ = nullptr;
  int64_t size_ = 0;
};

}  // namespace fulgurite
