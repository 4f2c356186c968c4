// What Loop and its connections share on Python's side.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <stdexcept>
#include <string_view>
#include <thread>
#include <unordered_map>
#include <vector>

#include "bindings/bindings.h"
#include "front/loop.h"

namespace headrace::bindings {

// Work on more bytes than this is worth giving the GIL up for.
inline constexpr std::size_t kReleaseGilBytes = 8 << 10;

struct HttpHandle;

struct LoopHandle {
  std::unique_ptr<Loop> loop;
  py::object buffer;  // memoryview of the loop's read buffer
  std::thread::id thread;
  std::unordered_map<std::uint64_t, HttpHandle*> http;  // by token
  py::object flush_soon;                     // the owner's: calls flush() at the end of this turn of the event loop
  bool flush_due = false;                    // it was asked to
  std::vector<HttpAnswer> room_for_answers;  // empty: memory of those that were written last
  bool short_way = true;  // HTTP connections may go it; false: the server drains, and tells each client so

  // A loop belongs to the thread that made it.
  Loop& get() {
    if (std::this_thread::get_id() != thread) {
      throw std::runtime_error("a headrace._core.Loop may be used only on the thread that made it");
    }
    if (loop == nullptr) throw std::runtime_error("this headrace._core.Loop is closed");
    return *loop;
  }
};

// A view of a pooled block for as long as Python holds it.
struct BlockView {
  Block block;
  std::span<const std::byte> bytes;
};

inline std::span<const std::byte> as_span(const py::bytes& data) {
  const std::string_view view(data);
  return {reinterpret_cast<const std::byte*>(view.data()), view.size()};
}

}  // namespace headrace::bindings
