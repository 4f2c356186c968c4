// What the files of this folder share: Python handles of the core's objects, and how a status becomes an exception.
// Translation only.
#pragma once

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <memory>
#include <string>

#include "base/error.h"
#include "engine/engine.h"

namespace headrace::bindings {

namespace py = pybind11;

// Handles keep what they point into alive: a model outlives neither its engine nor the catalogs that name it.
struct EngineHandle {
  std::shared_ptr<Engine> engine;
  py::dict limits;
};

struct ModelHandle {
  std::shared_ptr<Engine> engine;  // first: it goes last
  std::shared_ptr<Model> model;
};

struct SamplerHandle {
  std::shared_ptr<TraceSampler> sampler;
};

struct CatalogHandle {
  std::shared_ptr<Engine> engine;  // of the models in it
  std::shared_ptr<Catalog> catalog = std::make_shared<Catalog>();
};

// Raises CoreError(code, message).
[[noreturn]] void raise(const Status& status);
inline void check(const Status& status) {
  if (!status.ok()) raise(status);
}
template <class T>
T take(Result<T> result) {
  if (!result) raise(result.status());
  return std::move(*result);
}

// A required entry of a dict of options; CoreError names one that is missing or of the wrong type.
template <class T>
T required(const py::dict& options, const char* key) {
  if (!options.contains(key)) raise(invalid_argument(std::string("option '") + key + "' is missing"));
  try {
    return options[key].cast<T>();
  } catch (const py::cast_error&) {
    raise(invalid_argument(std::string("option '") + key + "' has the wrong type"));
  }
}
template <class T>
T optional(const py::dict& options, const char* key, T otherwise) {
  return options.contains(key) ? required<T>(options, key) : otherwise;
}

// What the scheduler knows of a model: _core.pyi has its form.
py::dict schedule_view(const EngineHandle& self, const ModelHandle& model);

void bind_errors(py::module_& module);
void bind_engine(py::module_& module);
void bind_loop(py::module_& module);
void bind_http_connection(py::module_& module);

}  // namespace headrace::bindings
