#pragma once
// Threads that wait for work, as an operation sees them. The kit of a device makes them, a session owns them.

namespace fulgurite {

class Workers {
 public:
  virtual ~Workers() = default;

  virtual int threads() const = 0;

  // Calls body(context, thread) once for each thread of [0, threads()); returns when all have returned. The
  // caller is thread 0, and may be others too, one after another. The body throws nothing. One call at a time.
  virtual void run(void (*body)(void* context, int thread), void* context) = 0;
};

}  // namespace fulgurite
