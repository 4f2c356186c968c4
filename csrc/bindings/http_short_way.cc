// The short way of an HTTP/1.1 connection: from the transport to the core and back to the socket.
#include <algorithm>
#include <span>
#include <string_view>
#include <utility>
#include <vector>

#include "bindings/http_handle.h"
#include "front/socket_send.h"

namespace headrace::bindings {
namespace {

constexpr const char* kCapsule = "headrace._core.HttpConnection";

// Requests without an answer: more than that is for the protocol, which lets reading rest.
constexpr std::size_t kMostOpen = 32;

void buffer_updated(HttpHandle& self, std::size_t size) {
  ShortWay& way = self.way;
  HttpConnection* connection = self.find();
  if (connection == nullptr) return;
  if (!way.on || !self.loop->short_way) {
    py::object(way.read)(size);  // held: the connection may end in it
    return;
  }
  way.heard = self.loop->get().engine().clock().now();
  const std::size_t open = way.next - way.first;
  const HttpConnection::Received received = receive(self, *connection, size, way.next, kMostOpen - open);
  flush_soon(*self.loop);
  if (received.left == 0 && connection->bits() == 0 && open + received.started < kMostOpen) {
    way.next += static_cast<std::uint32_t>(received.started);
    return;
  }
  py::object(way.received)(size, packed(*connection, received));
}

// Past the transport where it has nothing to write itself: its own way costs as much as all else that an answer does.
// Asked each time whether it closes, because then the socket's number may soon be another connection's.
void write(ShortWay& way, const HttpAnswer& answer) {
  std::string_view head = answer.head;
  std::string_view body = answer.body.own;
  if (way.socket >= 0 && !(way.buffered && py::cast<std::size_t>(way.unsent()) != 0) &&
      !py::cast<bool>(way.closing())) {
    std::size_t sent = send_now(way.socket, head, body);
    way.buffered = false;
    if (sent == head.size() + body.size()) return;
    const std::size_t of_head = std::min(sent, head.size());
    head.remove_prefix(of_head);
    body.remove_prefix(sent - of_head);
  }
  way.buffered = true;
  py::object(way.write)(make_bytes(head, body));  // held: the transport may tell the protocol that it is full, or lost
}

// What uvloop calls for each read. As plain C functions of a capsule they cost a quarter of what pybind11's would.
HttpHandle& handle_of(PyObject* capsule) { return *static_cast<HttpHandle*>(PyCapsule_GetPointer(capsule, kCapsule)); }

PyObject* call_get_buffer(PyObject* capsule, PyObject* /*sizehint*/) {
  return Py_NewRef(handle_of(capsule).loop->buffer.ptr());
}

PyObject* call_buffer_updated(PyObject* capsule, PyObject* nbytes) {
  const std::size_t size = PyLong_AsSize_t(nbytes);
  if (size == static_cast<std::size_t>(-1) && PyErr_Occurred() != nullptr) return nullptr;
  try {
    buffer_updated(handle_of(capsule), size);
    Py_RETURN_NONE;
  } catch (py::error_already_set& error) {
    error.restore();
  } catch (const py::builtin_exception& error) {
    error.set_error();
  } catch (const std::exception& error) {
    PyErr_SetString(PyExc_RuntimeError, error.what());
  }
  return nullptr;
}

py::object function_of(const py::object& connection, PyMethodDef& what) {
  auto& handle = py::cast<HttpHandle&>(connection);
  const auto capsule = py::reinterpret_steal<py::object>(PyCapsule_New(
      &handle, kCapsule, [](PyObject* gone) { Py_XDECREF(static_cast<PyObject*>(PyCapsule_GetContext(gone))); }));
  if (!capsule) throw py::error_already_set();
  if (PyCapsule_SetContext(capsule.ptr(), connection.ptr()) != 0) throw py::error_already_set();
  connection.inc_ref();  // the capsule's
  auto function = py::reinterpret_steal<py::object>(PyCFunction_New(&what, capsule.ptr()));
  if (!function) throw py::error_already_set();
  return function;
}

}  // namespace

HttpConnection::Received receive(const HttpHandle& self, HttpConnection& connection, std::size_t size,
                                 std::uint32_t next, std::size_t room) {
  const std::span<std::byte> buffer = self.loop->get().read_buffer();
  if (size > buffer.size()) throw py::value_error("more bytes than the buffer holds");
  if (size < kReleaseGilBytes) return connection.receive(buffer.first(size), next, room);
  py::gil_scoped_release release;
  return connection.receive(buffer.first(size), next, room);
}

std::uint64_t packed(const HttpConnection& connection, HttpConnection::Received received) {
  return connection.bits() | static_cast<std::uint64_t>(received.started) << 8 |
         static_cast<std::uint64_t>(received.left) << 32;
}

void flush_soon(LoopHandle& loop) {
  if (!std::exchange(loop.flush_due, true)) loop.flush_soon();
}

void ShortWay::connect(const py::object& transport) {
  const py::object info = transport.attr("get_extra_info");
  const py::object own = info("sslcontext").is_none() ? info("socket") : py::none();
  socket = own.is_none() ? -1 : py::cast<int>(own.attr("fileno")());
  write = transport.attr("write");
  unsent = transport.attr("get_write_buffer_size");
  closing = transport.attr("is_closing");
}

void enter_short_way(HttpHandle& self, std::uint32_t next) {
  ShortWay& way = self.way;
  if (self.find() == nullptr || !way.write || !self.loop->short_way) return;
  way.first = way.next = next;
  way.heard = self.loop->get().engine().clock().now();
  way.on = way.buffered = true;
}

py::object leave_short_way(HttpHandle& self) {
  ShortWay& way = self.way;
  if (!std::exchange(way.on, false)) return py::none();
  const Nanos now = self.loop->loop == nullptr ? way.heard : self.loop->loop->engine().clock().now();
  return py::make_tuple(way.first, way.next, static_cast<double>(now - way.heard) * 1e-9);
}

bool answer_shortly(HttpHandle& self) {
  ShortWay& way = self.way;
  HttpConnection* connection = self.find();
  if (!way.on || connection == nullptr) return false;
  std::vector<HttpAnswer> answers = std::exchange(self.loop->room_for_answers, {});
  connection->take_answers(answers);
  for (std::size_t i = 0; i < answers.size(); ++i) {
    HttpAnswer& answer = answers[i];
    const bool whole = answer.status.ok() && !answer.in_pieces && answer.body.views.empty() &&
                       answer.body.own.size() <= wire::kViewBytes;
    if (!way.on || !whole || answer.exchange != way.first) {
      if (const py::object collect = way.collect; collect) collect(answer_rows(std::span(answers).subspan(i)));
      return true;
    }
    ++way.first;
    write(way, answer);
  }
  answers.clear();
  self.loop->room_for_answers = std::move(answers);
  return true;
}

py::object get_buffer_of(const py::object& connection) {
  static PyMethodDef what{"get_buffer", &call_get_buffer, METH_O, nullptr};
  return function_of(connection, what);
}

py::object buffer_updated_of(const py::object& connection) {
  static PyMethodDef what{"buffer_updated", &call_buffer_updated, METH_O, nullptr};
  return function_of(connection, what);
}

}  // namespace headrace::bindings
