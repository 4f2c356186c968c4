#include "backend/plan_model.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <protozero/pbf_builder.hpp>
#include <system_error>

#include "backend/ort_signature.h"

namespace headrace {

namespace {

constexpr std::uint64_t kMostBytes = (std::uint64_t{1} << 31) - (std::uint64_t{1} << 20);  // 1 MiB for what is around

// Field numbers of onnx.proto.
enum class Model : protozero::pbf_tag_type { kIrVersion = 1, kProducer = 2, kGraph = 7, kOpset = 8 };
enum class Opset : protozero::pbf_tag_type { kDomain = 1, kVersion = 2 };
enum class Graph : protozero::pbf_tag_type { kNode = 1, kName = 2, kInput = 11, kOutput = 12 };
enum class Node : protozero::pbf_tag_type {
  kInput = 1,
  kOutput = 2,
  kName = 3,
  kType = 4,
  kAttribute = 5,
  kDomain = 7
};
enum class Attribute : protozero::pbf_tag_type { kName = 1, kInt = 3, kString = 4, kType = 20 };
enum class Value : protozero::pbf_tag_type { kName = 1, kType = 2 };
enum class Type : protozero::pbf_tag_type { kTensor = 1 };
enum class TensorType : protozero::pbf_tag_type { kElement = 1, kShape = 2 };
enum class ShapeField : protozero::pbf_tag_type { kDim = 1 };
enum class Dim : protozero::pbf_tag_type { kValue = 1, kSymbol = 2 };

constexpr std::int64_t kIrVersion = 8;  // and the opset with it: read by every release that is served
constexpr std::int64_t kOnnxOpset = 17;
constexpr std::int32_t kIntAttribute = 2;
constexpr std::int32_t kStringAttribute = 3;

struct Plan {
  int fd = -1;
  Plan() = default;
  Plan(const Plan&) = delete;
  Plan& operator=(const Plan&) = delete;
  ~Plan() {
    if (fd >= 0) ::close(fd);
  }
};

Status read_whole(const std::string& path, std::string& out) {
  Plan file;
  file.fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (file.fd < 0) {
    const int error = errno;
    const Code code = error == ENOENT || error == ENOTDIR ? Code::kNotFound : Code::kInvalidArgument;
    return {code, "Model file " + path + " cannot be opened: " + std::generic_category().message(error) + "."};
  }
  struct stat info {};
  if (::fstat(file.fd, &info) != 0 || !S_ISREG(info.st_mode))
    return invalid_argument("Model file " + path + " is not a regular file.");
  if (info.st_size == 0) return invalid_argument("Model file " + path + " is empty: it is no TensorRT engine.");
  const auto size = static_cast<std::uint64_t>(info.st_size);
  if (size > kMostBytes)
    return invalid_argument("Model file " + path + " has " + std::to_string(size) +
                            " bytes; a TensorRT engine of more than " + std::to_string(kMostBytes) +
                            " cannot be handed to ONNX Runtime: build it with lower precision, or in parts.");
  out.resize(size);
  for (std::uint64_t at = 0; at < size;) {
    const ssize_t got = ::pread(file.fd, out.data() + at, size - at, static_cast<off_t>(at));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return invalid_argument("Model file " + path + ": " + std::generic_category().message(errno) + ".");
    if (got == 0) return invalid_argument("Model file " + path + " became shorter while it was read.");
    at += static_cast<std::uint64_t>(got);
  }
  return {};
}

void add_value(protozero::pbf_builder<Graph>& graph, Graph field, const TensorSpec& spec) {
  protozero::pbf_builder<Value> value(graph, field);
  value.add_string(Value::kName, spec.name);
  protozero::pbf_builder<Type> type(value, Value::kType);
  protozero::pbf_builder<TensorType> tensor(type, Type::kTensor);
  tensor.add_int32(TensorType::kElement, static_cast<std::int32_t>(ort::element_of(spec.dtype)));
  // Written apart: a builder drops an empty message, and an empty one says "any size" here, or "a scalar".
  std::string dims;
  protozero::pbf_builder<ShapeField> shape(dims);
  for (std::size_t i = 0; i < spec.dims.size(); ++i) {
    std::string bytes;
    protozero::pbf_builder<Dim> dim(bytes);
    if (spec.dims[i] >= 0) {
      dim.add_int64(Dim::kValue, spec.dims[i]);
    } else if (i < spec.symbols.size() && !spec.symbols[i].empty()) {
      dim.add_string(Dim::kSymbol, spec.symbols[i]);
    }
    shape.add_message(ShapeField::kDim, bytes);
  }
  tensor.add_message(TensorType::kShape, dims);
}

void add_attribute(protozero::pbf_builder<Node>& node, const char* name, const std::string& value) {
  protozero::pbf_builder<Attribute> attribute(node, Node::kAttribute);
  attribute.add_string(Attribute::kName, name);
  attribute.add_bytes(Attribute::kString, value);
  attribute.add_int32(Attribute::kType, kStringAttribute);
}

void add_attribute(protozero::pbf_builder<Node>& node, const char* name, std::int64_t value) {
  protozero::pbf_builder<Attribute> attribute(node, Node::kAttribute);
  attribute.add_string(Attribute::kName, name);
  attribute.add_int64(Attribute::kInt, value);
  attribute.add_int32(Attribute::kType, kIntAttribute);
}

// Types of TensorRT's tensors that the protocol has a word for.
bool has_type(DType dtype) {
  switch (dtype) {
    case DType::kFp32:
    case DType::kFp16:
    case DType::kBf16:
    case DType::kInt8:
    case DType::kUint8:
    case DType::kInt32:
    case DType::kInt64:
    case DType::kBool:
      return true;
    default:
      return false;
  }
}

}  // namespace

Result<std::string> plan_model(const std::string& plan_file, const Signature& stated) {
  if (stated.inputs.empty() || stated.outputs.empty())
    return invalid_argument("Model file " + plan_file +
                            " is a TensorRT engine, which does not say what it takes and gives: write its inputs and "
                            "outputs, with data_type and dims, into config.pbtxt.");
  for (const auto* specs : {&stated.inputs, &stated.outputs}) {
    for (const TensorSpec& spec : *specs) {
      if (!has_type(spec.dtype))
        return invalid_argument("Model file " + plan_file + ": '" + spec.name + "' has datatype " +
                                std::string(dtype_name(spec.dtype)) +
                                ", which TensorRT lacks; it has FP32, FP16, BF16, INT8, UINT8, INT32, INT64 and BOOL.");
    }
  }
  std::string plan;
  if (Status read = read_whole(plan_file, plan); !read.ok()) return read;

  std::string out;
  out.reserve(plan.size() + (std::size_t{64} << 10));
  protozero::pbf_builder<Model> model(out);
  model.add_int64(Model::kIrVersion, kIrVersion);
  model.add_string(Model::kProducer, "headrace");
  {
    protozero::pbf_builder<Graph> graph(model, Model::kGraph);
    {
      protozero::pbf_builder<Node> node(graph, Graph::kNode);
      for (const TensorSpec& input : stated.inputs) node.add_string(Node::kInput, input.name);
      for (const TensorSpec& output : stated.outputs) node.add_string(Node::kOutput, output.name);
      node.add_string(Node::kName, "plan");
      node.add_string(Node::kType, "EPContext");
      add_attribute(node, "main_context", 1);
      add_attribute(node, "embed_mode", 1);
      add_attribute(node, "ep_cache_context", plan);
      add_attribute(node, "source", "TensorrtExecutionProvider");
      node.add_string(Node::kDomain, "com.microsoft");
    }
    graph.add_string(Graph::kName, "plan");
    for (const TensorSpec& input : stated.inputs) add_value(graph, Graph::kInput, input);
    for (const TensorSpec& output : stated.outputs) add_value(graph, Graph::kOutput, output);
  }
  {
    protozero::pbf_builder<Opset> opset(model, Model::kOpset);
    opset.add_string(Opset::kDomain, "");
    opset.add_int64(Opset::kVersion, kOnnxOpset);
  }
  {
    protozero::pbf_builder<Opset> opset(model, Model::kOpset);
    opset.add_string(Opset::kDomain, "com.microsoft");
    opset.add_int64(Opset::kVersion, 1);
  }
  return out;
}

}  // namespace headrace
