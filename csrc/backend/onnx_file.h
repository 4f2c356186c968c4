// What an .onnx file says of itself before a runtime opens it: the files it refers to, and which inputs and outputs
// state no shape. The file is read as a stream (weights are skipped), so the cost does not grow with the weights and a
// file that is cut while it is read gives an error, not a signal.
#pragma once

#include <cstdint>
#include <set>
#include <string>
#include <vector>

#include "base/error.h"

namespace headrace {

constexpr std::uint64_t kSmallestStored = 1024;

// One tensor whose bytes lie outside of the model file.
struct ExternalData {
  std::string tensor;    // its name, "" if it has none
  std::string location;  // as written: relative to the model's folder
  std::uint64_t offset = 0;
  std::uint64_t length = 0;  // 0: to the end of the file
};

// An initializer of the main graph whose bytes lie in the model file, one element after the other.
struct StoredTensor {
  std::string name;
  int element = 0;  // TensorProto.DataType
  std::vector<std::int64_t> dims;
  std::uint64_t offset = 0;  // of the bytes in the file
  std::uint64_t size = 0;
};

struct OnnxFile {
  std::vector<ExternalData> external;  // initializers, attributes, sparse values and indices; subgraphs, functions too
  std::set<std::string> inputs;        // of the main graph, initializers included
  std::set<std::string> outputs;
  std::set<std::string> initializers;
  std::set<std::string> unranked;    // inputs and outputs of the main graph that state no shape
  std::vector<StoredTensor> stored;  // those of at least kSmallestStored bytes
};

// NOT_FOUND when there is no such file; INVALID_ARGUMENT (names the path) when it cannot be read or is no ONNX model.
Result<OnnxFile> read_onnx_file(const std::string& path);

// Every external tensor lies, once links are resolved, in a regular file below `model_dir`, with its bytes inside.
// INVALID_ARGUMENT names the tensor and the location.
Status check_external_data(const OnnxFile& file, const std::string& model_file, const std::string& model_dir);

}  // namespace headrace
