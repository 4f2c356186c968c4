// HttpConnection on Python's side.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <utility>

#include "bindings/bindings.h"
#include "bindings/loop_handle.h"
#include "front/http_connection.h"

namespace headrace::bindings {

// The short way of a connection on which nothing special goes on: what is read goes to the core, and an answer to the
// socket, without a step of the protocol object's own. It ends as soon as there is something that the protocol has
// to see. While it is on, the protocol knows nothing of the requests that are open: their numbers are first..next-1,
// and answers go out in that order.
struct ShortWay {
  bool on = false;
  bool buffered = true;  // the transport may have bytes to write, which go before ours
  int socket = -1;       // the transport's; -1: it sends something else than what is written to it
  std::uint32_t first = 0;
  std::uint32_t next = 0;
  Nanos heard = 0;  // the last read
  // The protocol's and its transport's; gone with the connection, because they hold the connection in their turn.
  py::object write;     // (bytes)
  py::object unsent;    // (): bytes that the transport has to write
  py::object closing;   // (): the socket is no longer the transport's, or soon will not be
  py::object read;      // (nbytes): for the protocol to look at
  py::object received;  // (nbytes, what receive() says): the same, but the core has had its look
  py::object collect;   // (answers): for the protocol to put in order and write

  void connect(const py::object& transport);
};

struct HttpHandle {
  HttpHandle(std::shared_ptr<LoopHandle> loop_handle, std::uint64_t token_, std::string peer)
      : loop(std::move(loop_handle)), token(token_), id(loop->get().connect_http(token, std::move(peer))) {
    loop->http.emplace(token, this);
  }
  ~HttpHandle() { loop->http.erase(token); }
  HttpHandle(const HttpHandle&) = delete;
  HttpHandle& operator=(const HttpHandle&) = delete;

  HttpConnection* find() { return loop->loop == nullptr ? nullptr : loop->get().find_http(id); }

  const std::shared_ptr<LoopHandle> loop;
  const std::uint64_t token;
  const std::uint64_t id;
  ShortWay way;
};

void enter_short_way(HttpHandle& self, std::uint32_t next);
// (first, next, seconds since the last read), or None.
py::object leave_short_way(HttpHandle& self);
// Writes what the connection has to say, if it is on its short way. False: the protocol is to be asked.
bool answer_shortly(HttpHandle& self);
// asyncio.BufferedProtocol's, of a Python HttpConnection.
py::object get_buffer_of(const py::object& connection);
py::object buffer_updated_of(const py::object& connection);

HttpConnection::Received receive(const HttpHandle& self, HttpConnection& connection, std::size_t size,
                                 std::uint32_t next, std::size_t room);
// bits, the number of exchanges started << 8, the bytes left over << 32: one number is the cheapest answer.
std::uint64_t packed(const HttpConnection& connection, HttpConnection::Received received);
void flush_soon(LoopHandle& loop);

// The two, one behind the other.
py::bytes make_bytes(std::string_view first, std::string_view second);
// Rows of (exchange, code, HTTP status, payload or message).
py::list answer_rows(std::span<HttpAnswer> answers);

}  // namespace headrace::bindings
