// Loop and Connection: what a protocol object of an event loop calls.
#include "front/loop.h"

#include <chrono>
#include <optional>
#include <span>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "bindings/bindings.h"
#include "bindings/http_handle.h"
#include "bindings/loop_handle.h"
#include "front/connection.h"
#include "wire/json_elements.h"

namespace headrace::bindings {
namespace {

struct ConnectionHandle {
  std::shared_ptr<LoopHandle> loop;
  std::uint64_t id = 0;

  Connection* find() { return loop->loop == nullptr ? nullptr : loop->get().find(id); }
};

Nanos nanos(const py::dict& limits, const char* key) { return static_cast<Nanos>(required<double>(limits, key) * 1e9); }

// A Python function of a header's name, called from within receive(), which may have let go of the GIL.
HeaderForward::Wants wants(py::object function) {
  if (function.is_none()) return nullptr;
  const std::shared_ptr<py::object> held(new py::object(std::move(function)), [](py::object* last) {
    const py::gil_scoped_acquire gil;
    delete last;
  });
  return [held](std::string_view name) {
    const py::gil_scoped_acquire gil;
    try {
      return !(*held)(py::str(name.data(), name.size())).is_none();
    } catch (py::error_already_set& error) {  // an interrupt, or no memory: there is nobody to hand it to
      error.discard_as_unraisable("matching a header's name");
      return false;
    }
  };
}

std::shared_ptr<LoopHandle> make_loop(const EngineHandle& engine, std::vector<std::string> methods,
                                      std::vector<std::string> streams, py::object grpc_headers,
                                      py::object http_headers, bool access_log, bool measure_steps) {
  const py::dict& limits = engine.limits;
  LoopOptions options;
  options.grpc.max_message_bytes = required<std::size_t>(limits, "max_message_bytes");
  options.grpc.max_header_bytes = required<std::size_t>(limits, "max_header_bytes");
  options.grpc.max_concurrent_streams = required<std::uint32_t>(limits, "max_concurrent_streams");
  options.grpc.max_inflight_bytes = required<std::size_t>(limits, "connection_inflight_bytes");
  options.grpc.max_output_bytes = required<std::size_t>(limits, "max_output_bytes");
  options.grpc.write_stall = nanos(limits, "write_stall_seconds");
  options.grpc.message_stall = nanos(limits, "message_stall_seconds");
  options.grpc.message_whole = nanos(limits, "message_whole_seconds");
  options.grpc.idle = nanos(limits, "idle_seconds");
  options.infer.max_tensors = required<std::size_t>(limits, "max_tensors");
  options.infer.max_name_bytes = required<std::size_t>(limits, "max_name_bytes");
  options.infer.max_dims = required<std::size_t>(limits, "max_dims");
  options.infer.max_parameters = required<std::size_t>(limits, "max_parameters");
  options.methods = std::move(methods);
  options.streams = std::move(streams);
  options.grpc_headers = wants(std::move(grpc_headers));
  options.http_headers = wants(std::move(http_headers));
  options.access_log = access_log;
  options.measure_steps = measure_steps;
  auto handle = std::make_shared<LoopHandle>();
  handle->loop = std::make_unique<Loop>(engine.engine, std::move(options));
  handle->thread = std::this_thread::get_id();
  const std::span<std::byte> buffer = handle->loop->read_buffer();
  handle->buffer =
      py::memoryview::from_memory(static_cast<void*>(buffer.data()), static_cast<py::ssize_t>(buffer.size()));
  return handle;
}

// For the owner to look at: all that does not go the short way.
py::list ready_list(LoopHandle& self, const std::vector<Ready>& ready) {
  py::list rows;
  for (const Ready& each : ready) {
    const auto found = self.http.find(each.token);
    if (found == self.http.end() || !answer_shortly(*found->second)) rows.append(py::make_tuple(each.token, each.bits));
  }
  return rows;
}

// A header's value is ASCII, if its sender keeps to the rules.
py::str latin1(const std::string& bytes) {
  py::object made = py::reinterpret_steal<py::object>(
      PyUnicode_DecodeLatin1(bytes.data(), static_cast<Py_ssize_t>(bytes.size()), nullptr));
  if (!made) throw py::error_already_set();
  return made;
}

py::list access_list(Loop& loop, std::size_t most, std::uint64_t& dropped) {
  auto [entries, lost] = loop.take_access_log(most);
  dropped = lost;
  py::list rows;
  for (const AccessEntry& entry : entries) {
    py::dict row;
    row["peer"] = entry.peer;
    row["path"] = entry.path;
    row["model"] = entry.model;
    row["version"] = entry.version;
    row["request_id"] = entry.request_id;
    row["code"] = static_cast<int>(entry.code);
    row["request_bytes"] = entry.request_bytes;
    row["response_bytes"] = entry.response_bytes;
    row["rows"] = entry.rows;
    row["batch_rows"] = entry.batch_rows;
    row["queue_ns"] = entry.queue_ns;
    row["compute_ns"] = entry.compute_ns;
    row["total_ns"] = entry.total_ns;
    py::list headers;
    for (const auto& [name, value] : entry.headers) headers.append(py::make_tuple(name, latin1(value)));
    row["headers"] = headers;
    rows.append(row);
  }
  return rows;
}

// Bytes between views are joined; a view becomes a memoryview that holds its block. None: there is nothing more to
// write, and the connection is to be closed. Writing is what gets it there, so nobody else would say so.
py::object take_output(ConnectionHandle& self) {
  py::list rows;
  Connection* connection = self.find();
  if (connection == nullptr) return rows;
  std::vector<wire::OutputChunk> chunks;
  connection->take_output(chunks);
  if (chunks.empty() && (connection->bits() & kWantsClose) != 0) return py::none();
  for (std::size_t i = 0; i < chunks.size();) {
    if (chunks[i].block) {
      rows.append(py::memoryview(py::cast(BlockView{std::move(chunks[i].block), chunks[i].bytes})));
      ++i;
      continue;
    }
    std::size_t size = 0;
    std::size_t end = i;
    for (; end < chunks.size() && !chunks[end].block; ++end) size += chunks[end].bytes.size();
    py::object joined =
        py::reinterpret_steal<py::object>(PyBytes_FromStringAndSize(nullptr, static_cast<Py_ssize_t>(size)));
    if (!joined) throw py::error_already_set();
    char* at = PyBytes_AS_STRING(joined.ptr());
    for (; i < end; ++i) {
      std::memcpy(at, chunks[i].bytes.data(), chunks[i].bytes.size());
      at += chunks[i].bytes.size();
    }
    rows.append(std::move(joined));
  }
  return rows;
}

py::list take_calls(ConnectionHandle& self) {
  py::list rows;
  Connection* connection = self.find();
  if (connection == nullptr) return rows;
  for (const OwnerCall& call : connection->take_calls()) {
    py::list metadata;
    for (const auto& [key, value] : call.metadata) {
      const bool binary = key.size() > 4 && key.compare(key.size() - 4, 4, "-bin") == 0;
      metadata.append(py::make_tuple(key, binary ? py::object(py::bytes(value)) : py::object(py::str(value))));
    }
    const auto* bytes = reinterpret_cast<const char*>(call.message.bytes.data());
    rows.append(py::make_tuple(call.id, static_cast<int>(call.kind), call.path, metadata,
                               py::bytes(bytes, call.message.bytes.size())));
  }
  return rows;
}

unsigned receive(ConnectionHandle& self, std::span<const std::byte> bytes) {
  Connection* connection = self.find();
  if (connection == nullptr) return kWantsClose;
  if (bytes.size() < kReleaseGilBytes) return connection->receive(bytes);
  py::gil_scoped_release release;
  return connection->receive(bytes);
}

// A call on a connection that may be gone: nothing is asked of the caller then.
template <class F>
unsigned with(ConnectionHandle& self, F&& use) {
  Connection* connection = self.find();
  return connection == nullptr ? 0U : use(*connection);
}

// None: without tensors. Else each of them, and how many were left out.
py::object traced_tensors(const TraceEntry& entry) {
  if (!entry.tensors) return py::none();
  py::list rows;
  for (const TracedTensor& tensor : entry.tensors->tensors) {
    rows.append(py::make_tuple(tensor.name, tensor.output, dtype_name(tensor.dtype), py::tuple(py::cast(tensor.dims)),
                               tensor.size, py::bytes(tensor.bytes)));
  }
  return py::make_tuple(rows, entry.tensors->left_out);
}

}  // namespace

void bind_loop(py::module_& module) {
  module.def(
      "tensor_text",
      [](const std::string& datatype, const py::bytes& bytes) {
        const std::optional<DType> dtype = parse_dtype(datatype);
        if (!dtype) throw py::value_error("no such datatype");
        const std::span<const std::byte> data = as_span(bytes);
        py::gil_scoped_release release;
        return wire::elements_text(*dtype, data);
      },
      py::arg("datatype"), py::arg("data"), py::pos_only());

  module.attr("HAS_OUTPUT") = static_cast<unsigned>(kHasOutput);
  module.attr("HAS_CALLS") = static_cast<unsigned>(kHasCalls);
  module.attr("HAS_CANCELLED") = static_cast<unsigned>(kHasCancelled);
  module.attr("CALL") = static_cast<int>(OwnerKind::kCall);
  module.attr("OPEN") = static_cast<int>(OwnerKind::kOpen);
  module.attr("MESSAGE") = static_cast<int>(OwnerKind::kMessage);
  module.attr("END") = static_cast<int>(OwnerKind::kEnd);
  module.attr("WANTS_CLOSE") = static_cast<unsigned>(kWantsClose);
  module.attr("HAS_UNREAD") = static_cast<unsigned>(kHasUnread);
  module.attr("READ_ON") = static_cast<unsigned>(kReadOn);

  py::class_<BlockView>(module, "BlockView", py::buffer_protocol()).def_buffer([](BlockView& view) {
    return py::buffer_info(const_cast<std::byte*>(view.bytes.data()), 1, "B", 1, {view.bytes.size()}, {1}, true);
  });

  py::class_<ConnectionHandle>(module, "Connection")
      .def(
          "get_buffer", [](ConnectionHandle& self, int) { return self.loop->buffer; }, py::pos_only())
      .def(
          "receive",
          [](ConnectionHandle& self, std::size_t size) {
            const std::span<std::byte> buffer = self.loop->get().read_buffer();
            if (size > buffer.size()) throw py::value_error("more bytes than the buffer holds");
            return receive(self, buffer.first(size));
          },
          py::pos_only())
      .def("receive_bytes", [](ConnectionHandle& self, const py::bytes& data) { return receive(self, as_span(data)); })
      .def("receive_eof",
           [](ConnectionHandle& self) { return with(self, [](Connection& c) { return c.receive_eof(); }); })
      .def("take_output", &take_output)
      .def("pause_writing",
           [](ConnectionHandle& self) {
             with(self, [](Connection& c) {
               c.pause_writing();
               return 0U;
             });
           })
      .def("resume_writing",
           [](ConnectionHandle& self) { return with(self, [](Connection& c) { return c.resume_writing(); }); })
      .def("take_calls", &take_calls)
      .def("take_cancelled",
           [](ConnectionHandle& self) {
             Connection* connection = self.find();
             return connection == nullptr ? std::vector<std::int32_t>() : connection->take_cancelled();
           })
      .def("reply",
           [](ConnectionHandle& self, std::int32_t call, const py::bytes& message) {
             return with(self, [&](Connection& c) { return c.reply(call, as_span(message)); });
           })
      .def("fail",
           [](ConnectionHandle& self, std::int32_t call, int code, const std::string& message,
              const std::vector<std::pair<std::string, std::string>>& trailers) {
             if (code < 1 || code > 16) throw py::value_error("code must be a gRPC status from 1 to 16");
             return with(self, [&](Connection& c) {
               return c.fail(call, {static_cast<Code>(code), message}, trailers);
             });
           })
      .def("send_part",
           [](ConnectionHandle& self, std::int32_t call, const py::bytes& message) {
             return with(self, [&](Connection& c) { return c.send_part(call, as_span(message)); });
           })
      .def("finish", [](ConnectionHandle& self,
                        std::int32_t call) { return with(self, [&](Connection& c) { return c.finish(call); }); })
      .def("release_message",
           [](ConnectionHandle& self, std::int32_t call) {
             return with(self, [&](Connection& c) { return c.release_message(call); });
           })
      .def("shutdown_notice",
           [](ConnectionHandle& self) { return with(self, [](Connection& c) { return c.shutdown_notice(); }); })
      .def("shutdown_final",
           [](ConnectionHandle& self) { return with(self, [](Connection& c) { return c.shutdown_final(); }); })
      .def("abort_calls",
           [](ConnectionHandle& self, int code, const std::string& message) {
             if (code < 1 || code > 16) throw py::value_error("code must be a gRPC status from 1 to 16");
             return with(self, [&](Connection& c) { return c.abort_calls({static_cast<Code>(code), message}); });
           })
      .def("lost",
           [](ConnectionHandle& self) {
             if (self.loop->loop != nullptr) self.loop->get().disconnect(self.id);
           })
      .def_property_readonly("output_waiting",
                             [](ConnectionHandle& self) -> std::size_t {
                               Connection* connection = self.find();
                               return connection == nullptr ? 0 : connection->output_waiting();
                             })
      .def_property_readonly("open_calls", [](ConnectionHandle& self) -> std::size_t {
        Connection* connection = self.find();
        return connection == nullptr ? 0 : connection->open_calls();
      });

  py::class_<LoopHandle, std::shared_ptr<LoopHandle>>(module, "Loop")
      .def(py::init(&make_loop), py::arg("engine"), py::kw_only(), py::arg("methods"), py::arg("streams"),
           py::arg("grpc_headers"), py::arg("http_headers"), py::arg("access_log"), py::arg("measure_steps"))
      .def("fileno", [](LoopHandle& self) { return self.loop == nullptr ? -1 : self.loop->fileno(); })
      .def("drain",
           [](LoopHandle& self) {
             std::vector<Ready> ready;
             self.get().drain(ready);
             return ready_list(self, ready);
           })
      .def("connect",
           [](const std::shared_ptr<LoopHandle>& self, std::uint64_t token, std::string peer) {
             const std::uint64_t id = self->get().connect(token, std::move(peer));
             return ConnectionHandle{self, id};
           })
      .def("next_timeout",
           [](LoopHandle& self) -> py::object {
             const Nanos time = self.get().next_timeout();
             if (time == kNever) return py::none();
             return py::float_(std::max(0.0, static_cast<double>(time - self.get().engine().clock().now()) * 1e-9));
           })
      .def("on_timer",
           [](LoopHandle& self) {
             std::vector<Ready> ready;
             self.get().on_timer(ready);
             return ready_list(self, ready);
           })
      .def(
          "take_access_log",
          [](LoopHandle& self, std::size_t most) {
            std::uint64_t dropped = 0;
            py::list rows = access_list(self.get(), most, dropped);
            return py::make_tuple(rows, dropped);
          },
          py::pos_only())
      .def("flush",
           [](LoopHandle& self) {
             self.flush_due = false;
             self.get().flush();
           })
      .def_readwrite("flush_soon", &LoopHandle::flush_soon)
      .def_readwrite("short_way", &LoopHandle::short_way)
      .def("settled", [](LoopHandle& self) { return self.get().settled(); })
      .def("take_traces",
           [](LoopHandle& self, std::size_t limit) {
             const auto [entries, dropped] = self.get().take_traces(limit);
             py::list rows;
             for (const TraceEntry& entry : entries) {
               const Timeline& time = entry.time;
               const py::tuple times = entry.times
                                           ? py::make_tuple(time.received, time.queued, time.started, time.infer_start,
                                                            time.infer_end, time.finished, entry.ended)
                                           : py::tuple();
               rows.append(py::make_tuple(entry.sampler, entry.model, entry.version, entry.request_id, times,
                                          time.infer_start != 0, traced_tensors(entry)));
             }
             return py::make_tuple(rows, dropped);
           })
      .def("max_step_ns", [](LoopHandle& self) { return self.loop == nullptr ? Nanos{0} : self.get().max_step(); })
      .def("close", [](LoopHandle& self) {
        if (self.loop == nullptr) return;
        self.get();
        self.flush_soon = py::none();  // it holds us in its turn
        for (const auto& [token, handle] : self.http) handle->way = ShortWay();
        py::gil_scoped_release release;
        self.loop->close();
      });
}

}  // namespace headrace::bindings
