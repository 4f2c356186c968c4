// headrace._core: the list of its classes.
#include "bindings/bindings.h"

namespace headrace::bindings {
namespace {

PyObject* core_error = nullptr;  // owned by the module for the life of the process

// The shapes of plain data in _core.pyi are dicts and tuples; as names of these they can be imported and called.
void name_plain_data(py::module_& module) {
  for (const char* name : {"Limits", "SessionOptions", "BatchingOptions", "TensorInfo", "AccessEntry"}) {
    module.attr(name) = py::reinterpret_borrow<py::object>(reinterpret_cast<PyObject*>(&PyDict_Type));
  }
  module.attr("TraceRow") = py::reinterpret_borrow<py::object>(reinterpret_cast<PyObject*>(&PyTuple_Type));
  module.attr("HttpAnswer") = py::reinterpret_borrow<py::object>(reinterpret_cast<PyObject*>(&PyTuple_Type));
  module.attr("Call") = py::reinterpret_borrow<py::object>(reinterpret_cast<PyObject*>(&PyTuple_Type));
}

}  // namespace

void raise(const Status& status) {
  const py::handle type(core_error);
  py::object error = type(status.message());
  error.attr("code") = static_cast<int>(status.code());
  error.attr("message") = status.message();
  PyErr_SetObject(core_error, error.ptr());
  throw py::error_already_set();
}

void bind_errors(py::module_& module) {
  core_error = PyErr_NewException("headrace._core.CoreError", PyExc_Exception, nullptr);
  if (core_error == nullptr) throw py::error_already_set();
  module.attr("CoreError") = py::reinterpret_borrow<py::object>(core_error);
}

PYBIND11_MODULE(_core, module, py::mod_gil_not_used()) {
  module.doc() = "The native core of Headrace. Its types are described in _core.pyi.";
  module.def("version", [] { return std::string(HEADRACE_VERSION); });
  name_plain_data(module);
  bind_errors(module);
  bind_engine(module);
  bind_loop(module);
  bind_http_connection(module);
}

}  // namespace headrace::bindings
