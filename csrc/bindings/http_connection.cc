// HttpConnection: what the protocol object of an HTTP/1.1 connection calls.
#include "front/http_connection.h"

#include <cstring>
#include <utility>
#include <vector>

#include "bindings/bindings.h"
#include "bindings/http_handle.h"

namespace headrace::bindings {
namespace {

// Text of an answer that is too long to be copied.
struct TextView {
  std::string text;
  Block room;
};

// One bytes object, or a list of bytes and memoryviews.
py::object payload(HttpAnswer& answer) {
  wire::OutMessage& body = answer.body;
  const bool copied = body.own.size() <= wire::kViewBytes;
  if (body.views.empty() && copied) return make_bytes(answer.head, body.own);
  py::list chunks;
  std::string_view head = answer.head;
  if (!copied && !head.empty()) chunks.append(make_bytes(std::exchange(head, {}), {}));
  const std::size_t size = body.own.size();
  const std::string_view own = body.own;
  std::vector<wire::OutMessage::View> views = std::move(body.views);
  py::object text;
  if (!copied) text = py::memoryview(py::cast(TextView{std::move(body.own), std::move(answer.room)}));
  std::size_t at = 0;
  const auto add_own = [&](std::size_t upto) {
    if (copied && upto - at + head.size() != 0) {
      chunks.append(make_bytes(std::exchange(head, {}), own.substr(at, upto - at)));
    } else if (!copied && upto != at) {
      chunks.append(text[py::slice(static_cast<py::ssize_t>(at), static_cast<py::ssize_t>(upto), 1)]);
    }
    at = upto;
  };
  for (wire::OutMessage::View& view : views) {
    add_own(view.offset);
    chunks.append(py::memoryview(py::cast(BlockView{std::move(view.block), view.bytes})));
  }
  add_own(size);
  return chunks;
}

Status failed(int code, const std::string& message) {
  if (code < 1 || code > 16) throw py::value_error("code must be a gRPC status from 1 to 16");
  return {static_cast<Code>(code), message};
}

py::object refusal(const Status& status) {
  if (status.ok()) return py::none();
  return py::make_tuple(static_cast<int>(status.code()), status.message());
}

py::object infer_stream(HttpHandle& self, std::uint32_t exchange, const py::bytes& body, wire::Metadata headers) {
  HttpConnection* connection = self.find();
  if (connection == nullptr) return py::none();
  const std::span<const std::byte> bytes = as_span(body);
  Status status;
  {
    py::gil_scoped_release release;  // it may be a large one
    status = connection->infer_stream(exchange, bytes, std::move(headers));
  }
  return refusal(status);
}

// A list of bytes and memoryviews, and at the end of the answer how it ended.
py::tuple take_pieces(HttpHandle& self, std::uint32_t exchange, std::size_t most) {
  py::list chunks;
  HttpConnection* connection = self.find();
  if (connection == nullptr) return py::make_tuple(chunks, py::none());
  std::vector<AnswerPiece> pieces;
  Status status;
  const bool end = connection->take_pieces(exchange, most, pieces, status);
  std::string small;  // many are: one object for all that follow each other
  const auto add_small = [&] {
    if (!small.empty()) chunks.append(py::bytes(std::exchange(small, {})));
  };
  for (AnswerPiece& piece : pieces) {
    if (piece.message.views.empty() && piece.message.own.size() <= wire::kViewBytes) {
      small += piece.message.own;
      continue;
    }
    add_small();
    HttpAnswer answer;
    answer.body = std::move(piece.message);
    answer.room = std::move(piece.room);
    const py::object said = payload(answer);
    if (py::isinstance<py::list>(said)) {
      for (const py::handle each : said) chunks.append(each);
    } else {
      chunks.append(said);
    }
  }
  add_small();
  if (!end) return py::make_tuple(chunks, py::none());
  return py::make_tuple(chunks, py::make_tuple(static_cast<int>(status.code()), status.message()));
}

py::list take_answers(HttpHandle& self) {
  HttpConnection* connection = self.find();
  if (connection == nullptr) return py::list();
  std::vector<HttpAnswer> answers = connection->take_answers();
  return answer_rows(answers);
}

wire::Encoding encoding_of(int number) {
  if (number < 0 || number > static_cast<int>(wire::Encoding::kDeflate)) {
    throw py::value_error("an encoding is 0 (none), 1 (gzip) or 2 (deflate)");
  }
  return static_cast<wire::Encoding>(number);
}

unsigned infer(HttpHandle& self, std::uint32_t exchange, std::string model, std::string version, const py::object& body,
               std::int64_t json_bytes, double timeout, int accepts, std::string headers, int form,
               wire::Metadata request_headers) {
  HttpConnection* connection = self.find();
  if (connection == nullptr) return 0;
  HttpInfer asked;
  asked.exchange = exchange;
  asked.model = std::move(model);
  asked.version = std::move(version);
  if (json_bytes >= 0) asked.json_bytes = static_cast<std::size_t>(json_bytes);
  if (timeout >= 0) asked.timeout = static_cast<Nanos>(timeout * 1e9);
  asked.accepts = encoding_of(accepts);
  asked.headers = std::move(headers);
  if (form < 0 || form > static_cast<int>(HttpForm::kEvents)) throw py::value_error("a form is 0 to 5");
  asked.form = static_cast<HttpForm>(form);
  asked.request_headers = std::move(request_headers);
  if (body.is_none()) {
    py::gil_scoped_release release;  // a large one
    return connection->infer(std::move(asked));
  }
  const std::span<const std::byte> bytes = as_span(py::cast<py::bytes>(body));
  if (bytes.size() < kReleaseGilBytes) return connection->infer(std::move(asked), bytes);
  py::gil_scoped_release release;
  return connection->infer(std::move(asked), bytes);
}

}  // namespace

py::bytes make_bytes(std::string_view first, std::string_view second) {
  py::object made = py::reinterpret_steal<py::object>(
      PyBytes_FromStringAndSize(nullptr, static_cast<Py_ssize_t>(first.size() + second.size())));
  if (!made) throw py::error_already_set();
  char* at = PyBytes_AS_STRING(made.ptr());
  std::memcpy(at, first.data(), first.size());
  std::memcpy(at + first.size(), second.data(), second.size());
  return py::reinterpret_steal<py::bytes>(made.release());
}

py::list answer_rows(std::span<HttpAnswer> answers) {
  py::list rows(answers.size());
  for (std::size_t i = 0; i < answers.size(); ++i) {
    HttpAnswer& answer = answers[i];
    py::object said = answer.in_pieces     ? py::object(py::none())
                      : answer.status.ok() ? payload(answer)
                                           : py::object(py::str(answer.status.message()));
    rows[i] = py::make_tuple(answer.exchange, static_cast<int>(answer.status.code()), answer.http, std::move(said));
  }
  return rows;
}

void bind_http_connection(py::module_& module) {
  py::class_<TextView>(module, "TextView", py::buffer_protocol()).def_buffer([](TextView& view) {
    return py::buffer_info(view.text.data(), 1, "B", 1, {view.text.size()}, {1}, true);
  });

  py::class_<HttpHandle>(module, "HttpConnection")
      .def(py::init([](const std::shared_ptr<LoopHandle>& loop, std::uint64_t token, std::string peer) {
             return std::make_unique<HttpHandle>(loop, token, std::move(peer));
           }),
           py::arg("loop"), py::arg("token"), py::arg("peer"), py::pos_only())
      .def_property_readonly("get_buffer", [](const py::object& self) { return get_buffer_of(self); })
      .def_property_readonly("buffer_updated", [](const py::object& self) { return buffer_updated_of(self); })
      .def(
          "receive",
          [](HttpHandle& self, std::size_t size, std::uint32_t next, std::size_t room) -> std::uint64_t {
            HttpConnection* connection = self.find();
            if (connection == nullptr) return 0;
            const HttpConnection::Received received = receive(self, *connection, size, next, room);
            flush_soon(*self.loop);
            return packed(*connection, received);
          },
          py::pos_only())
      .def(
          "connect_protocol",
          [](HttpHandle& self, const py::object& transport, py::object read, py::object received, py::object collect) {
            self.way.connect(transport);
            self.way.read = std::move(read);
            self.way.received = std::move(received);
            self.way.collect = std::move(collect);
          },
          py::pos_only())
      .def("enter_short_way", &enter_short_way, py::pos_only())
      .def("leave_short_way", &leave_short_way)
      .def_property_readonly("receiving_for",
                             [](HttpHandle& self) -> py::object {
                               HttpConnection* connection = self.find();
                               if (connection == nullptr || connection->receiving_since() == kNever) return py::none();
                               const Nanos now = self.loop->get().engine().clock().now();
                               return py::float_(static_cast<double>(now - connection->receiving_since()) * 1e-9);
                             })
      .def(
          "begin_body",
          [](HttpHandle& self, std::int64_t size, std::size_t align_at, int encoding, std::size_t here) -> py::object {
            HttpConnection* connection = self.find();
            if (connection == nullptr) return py::none();
            const std::size_t known = size < 0 ? wire::BodyIntake::kUnknown : static_cast<std::size_t>(size);
            return refusal(connection->begin_body(known, align_at, encoding_of(encoding), here));
          },
          py::pos_only())
      .def(
          "append_body",
          [](HttpHandle& self, const py::bytes& piece) -> py::object {
            HttpConnection* connection = self.find();
            if (connection == nullptr) return py::none();
            const std::span<const std::byte> bytes = as_span(piece);
            if (bytes.size() < kReleaseGilBytes) return refusal(connection->append_body(bytes));
            Status status;
            {
              py::gil_scoped_release release;
              status = connection->append_body(bytes);
            }
            return refusal(status);
          },
          py::pos_only())
      .def("drop_body",
           [](HttpHandle& self) {
             if (HttpConnection* connection = self.find(); connection != nullptr) connection->drop_body();
           })
      .def("take_body",
           [](HttpHandle& self) {
             HttpConnection* connection = self.find();
             return connection == nullptr ? py::bytes() : py::bytes(connection->take_body());
           })
      .def("infer", &infer, py::pos_only())
      .def("take_answers", &take_answers)
      .def("infer_stream", &infer_stream, py::pos_only())
      .def("take_pieces", &take_pieces, py::pos_only())
      .def(
          "cancel_stream",
          [](HttpHandle& self, std::uint32_t exchange, int code, const std::string& message) {
            HttpConnection* connection = self.find();
            return connection == nullptr ? 0U : connection->cancel_stream(exchange, failed(code, message));
          },
          py::pos_only())
      .def(
          "abort_calls",
          [](HttpHandle& self, int code, const std::string& message) {
            HttpConnection* connection = self.find();
            return connection == nullptr ? 0U : connection->abort_calls(failed(code, message));
          },
          py::pos_only())
      .def("lost",
           [](HttpHandle& self) {
             self.way = ShortWay();
             if (self.loop->loop != nullptr) self.loop->get().disconnect(self.id);
           })
      .def_property_readonly("open_calls", [](HttpHandle& self) -> std::size_t {
        HttpConnection* connection = self.find();
        return connection == nullptr ? 0 : connection->open_calls();
      });
}

}  // namespace headrace::bindings
