#include "backend/registry.h"

#include <array>
#include <filesystem>
#include <system_error>
#include <utility>

#include "backend/echo.h"
#include "backend/onnxruntime.h"
#include "backend/tensorrt.h"

namespace headrace {

Result<std::unique_ptr<PartRun>> Session::begin(BatchRun& /*batch*/) {
  return Status(Code::kUnimplemented, "this model answers each request once");
}

Result<std::uint64_t> Backend::weight_bytes(const std::string& model_file, const std::string& /*model_dir*/) {
  std::error_code error;
  const std::uintmax_t size = std::filesystem::file_size(model_file, error);
  return error ? std::uint64_t{0} : std::uint64_t{size};  // load says what is wrong with it
}

namespace {

struct Row {
  std::string_view name;
  Result<std::shared_ptr<Backend>> (*open)(const BackendOptions& options);
};

constexpr std::array kRows{
    Row{"onnxruntime", &open_onnxruntime},
    Row{"echo", &open_echo},
    Row{"tensorrt", &open_tensorrt},
};

}  // namespace

Result<std::shared_ptr<Backend>> open_backend(std::string_view name, const BackendOptions& options) {
  std::string known;
  for (const Row& row : kRows) {
    if (row.name == name) return row.open(options);
    known += (known.empty() ? "" : ", ") + std::string(row.name);
  }
  return Status(Code::kNotFound, "There is no backend '" + std::string(name) + "'; the known ones are: " + known +
                                     " (config.pbtxt: backend).");
}

std::vector<std::string_view> backend_names() {
  std::vector<std::string_view> names;
  for (const Row& row : kRows) names.push_back(row.name);
  return names;
}

}  // namespace headrace
