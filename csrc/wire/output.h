// What goes out: response messages, the queue of one stream, and the joining of small pieces into one run of bytes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "memory/pool.h"

namespace headrace::wire {

// One response message: bytes of its own, with views of pooled blocks cut in at given offsets.
struct OutMessage {
  struct View {
    std::size_t offset;  // stands before own[offset]
    std::span<const std::byte> bytes;
    Block block;
  };
  std::string own;
  std::vector<View> views;  // ascending offset
  std::size_t size() const {
    std::size_t total = own.size();
    for (const View& view : views) total += view.bytes.size();
    return total;
  }
  void clear() {
    own.clear();
    views.clear();
  }
};

struct OutputChunk {
  std::span<const std::byte> bytes;
  Block block;  // set: bytes are a view of it. Not set: bytes lie in the connection's buffer until the next call of a
                // method
};

// Collects the output of one turn. Small pieces are joined in a buffer of its own, views stay views.
class OutputWriter {
 public:
  void begin(std::vector<OutputChunk>& chunks);
  void append(const void* bytes, std::size_t size);
  void view(std::span<const std::byte> bytes, Block block);
  void end();  // the chunks are valid from here on, until begin()
  std::size_t written() const { return written_; }

 private:
  static constexpr std::size_t kJoin = 4096;                  // a view that is no larger is copied
  static constexpr std::size_t kKeep = std::size_t{1} << 20;  // memory of the buffer that outlives a turn

  struct Run {
    std::size_t chunk;
    std::size_t offset;
  };
  std::vector<OutputChunk>* chunks_ = nullptr;
  std::string own_;
  std::vector<Run> runs_;
  bool run_open_ = false;
  std::size_t written_ = 0;
};

// The messages of one stream that wait for flow control, length prefixes included.
class OutputQueue {
 public:
  // Leaves `message` cleared. It is at most 4 GiB - 1 long.
  void push_message(OutMessage& message);
  void move_to(OutputWriter& writer, std::size_t bytes);  // at most size()
  void clear();
  std::size_t size() const { return size_; }
  std::size_t memory() const { return small_.capacity() + pieces_.capacity() * sizeof(Piece); }

 private:
  static constexpr std::size_t kCopy = std::size_t{16} << 10;  // own bytes up to this are copied into small_

  struct Piece {
    std::size_t size;
    const std::byte* bytes;  // null: the next ones of small_
    Block block;             // owner of a view
    std::string own;         // owner of bytes that were too many to copy
  };
  void push_small(const char* bytes, std::size_t size);

  std::vector<Piece> pieces_;
  std::size_t first_ = 0;  // of pieces_
  std::string small_;
  std::size_t small_at_ = 0;
  std::size_t size_ = 0;
};

}  // namespace headrace::wire
