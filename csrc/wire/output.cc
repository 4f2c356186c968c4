#include "wire/output.h"

#include <algorithm>
#include <array>

#include "base/check.h"

namespace headrace::wire {

void OutputWriter::begin(std::vector<OutputChunk>& chunks) {
  chunks_ = &chunks;
  own_.clear();
  if (own_.capacity() > kKeep) own_.shrink_to_fit();
  runs_.clear();
  run_open_ = false;
  written_ = 0;
}

void OutputWriter::append(const void* bytes, std::size_t size) {
  if (size == 0) return;
  if (!run_open_) {
    runs_.push_back({chunks_->size(), own_.size()});
    chunks_->emplace_back();
    run_open_ = true;
  }
  own_.append(static_cast<const char*>(bytes), size);
  written_ += size;
}

void OutputWriter::view(std::span<const std::byte> bytes, Block block) {
  if (bytes.size() <= kJoin) {
    append(bytes.data(), bytes.size());
    return;
  }
  chunks_->push_back({bytes, std::move(block)});
  run_open_ = false;
  written_ += bytes.size();
}

void OutputWriter::end() {
  // Only now: the buffer may have moved while it grew.
  const auto* base = reinterpret_cast<const std::byte*>(own_.data());
  for (std::size_t i = 0; i < runs_.size(); ++i) {
    const std::size_t stop = i + 1 < runs_.size() ? runs_[i + 1].offset : own_.size();
    (*chunks_)[runs_[i].chunk].bytes = {base + runs_[i].offset, stop - runs_[i].offset};
  }
  chunks_ = nullptr;
}

void OutputQueue::push_small(const char* bytes, std::size_t size) {
  if (size == 0) return;
  small_.append(bytes, size);
  if (first_ < pieces_.size() && pieces_.back().bytes == nullptr) {
    pieces_.back().size += size;
  } else {
    pieces_.push_back({size, nullptr, {}, {}});
  }
  size_ += size;
}

void OutputQueue::push_message(OutMessage& message) {
  const std::size_t total = message.size();
  HEADRACE_CHECK(total <= 0xffffffffU);
  const std::array<char, 5> prefix = {0, static_cast<char>(total >> 24), static_cast<char>(total >> 16),
                                      static_cast<char>(total >> 8), static_cast<char>(total)};
  push_small(prefix.data(), prefix.size());
  if (message.views.empty() && message.own.size() > kCopy) {
    pieces_.push_back({message.own.size(), nullptr, {}, std::move(message.own)});
    pieces_.back().bytes = reinterpret_cast<const std::byte*>(pieces_.back().own.data());
    size_ += pieces_.back().size;
  } else {
    std::size_t at = 0;
    for (OutMessage::View& view : message.views) {
      push_small(message.own.data() + at, view.offset - at);
      at = view.offset;
      if (view.bytes.empty()) continue;
      size_ += view.bytes.size();
      pieces_.push_back({view.bytes.size(), view.bytes.data(), std::move(view.block), {}});
    }
    push_small(message.own.data() + at, message.own.size() - at);
  }
  message.clear();
}

void OutputQueue::move_to(OutputWriter& writer, std::size_t bytes) {
  HEADRACE_CHECK(bytes <= size_);
  size_ -= bytes;
  while (bytes != 0) {
    Piece& piece = pieces_[first_];
    const std::size_t take = std::min(bytes, piece.size);
    bytes -= take;
    if (piece.bytes == nullptr) {
      writer.append(small_.data() + small_at_, take);
      small_at_ += take;
    } else {
      const std::span<const std::byte> part{piece.bytes, take};
      piece.bytes += take;
      if (!piece.block) {
        writer.append(part.data(), part.size());
      } else if (take == piece.size) {
        writer.view(part, std::move(piece.block));
      } else {
        writer.view(part, piece.block);
      }
    }
    piece.size -= take;
    if (piece.size == 0) {
      piece.own = std::string();
      ++first_;
    }
  }
  if (first_ == pieces_.size()) {
    clear();
    return;
  }
  // A long stream that never runs dry: what has been sent must not pile up.
  if (first_ > 64 && first_ * 2 > pieces_.size()) {
    pieces_.erase(pieces_.begin(), pieces_.begin() + static_cast<std::ptrdiff_t>(first_));
    first_ = 0;
  }
  if (small_at_ > kCopy && small_at_ * 2 > small_.size()) {
    small_.erase(0, small_at_);
    small_at_ = 0;
  }
}

void OutputQueue::clear() {
  pieces_.clear();
  first_ = 0;
  if (small_.capacity() > 4 * kCopy) small_ = std::string();
  small_.clear();
  small_at_ = 0;
  size_ = 0;
}

}  // namespace headrace::wire
