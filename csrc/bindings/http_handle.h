// HttpConnection on Python's side.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <utility>

#include "bindings/bindings.h"
#include "bindings/loop_handle.h"
#include "front/http_connection.h"

namespace headrace::bindings {

// The short way of a connection on which nothing special goes on: what is read goes to the core, and an answer to the
// transport, without a step of the protocol object's own. It ends as soon as there is something that the protocol has
// to see. While it is on, the protocol knows nothing of the requests that are open: their numbers are first..next-1,
// and answers go out in that order.
struct ShortWay {
  bool on = false;
  std::uint32_t first = 0;
  std::uint32_t next = 0;
  Nanos heard = 0;  // the last read
  // The protocol's and its transport's; gone with the connection, because they hold the connection in their turn.
  py::object write;     // bytes
  py::object read;      // (nbytes): for the protocol to look at
  py::object received;  // (nbytes, what receive() says): the same, but the core has had its look
  py::object collect;   // (answers): for the protocol to put in order and write
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

// Writes what the connection has to say, if it is on its short way. False: the protocol is to be asked.
bool answer_shortly(HttpHandle& self);

}  // namespace headrace::bindings
