#include "backend/onnx_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <charconv>
#include <filesystem>
#include <protozero/pbf_reader.hpp>
#include <string_view>
#include <system_error>
#include <utility>

#include "backend/descriptor.h"

namespace headrace {

namespace {

constexpr int kMaxDepth = 100;                               // of nested messages, as protobuf's own parsers
constexpr std::uint64_t kMaxSmall = std::uint64_t{1} << 20;  // bytes of a name, a type or a key-value pair

enum WireType : std::uint32_t { kVarint = 0, kFixed64 = 1, kLengthDelimited = 2, kFixed32 = 5 };

// Field numbers of onnx.proto, for the messages on the way to a tensor.
struct Field {
  enum Model : std::uint32_t { kModelGraph = 7, kModelTraining = 20, kModelFunction = 25 };
  enum Graph : std::uint32_t {
    kGraphNode = 1,
    kGraphInitializer = 5,
    kGraphInput = 11,
    kGraphOutput = 12,
    kGraphSparse = 15
  };
  enum Node : std::uint32_t { kNodeAttribute = 5 };
  enum Attribute : std::uint32_t {
    kAttributeTensor = 5,
    kAttributeGraph = 6,
    kAttributeTensors = 10,
    kAttributeGraphs = 11,
    kAttributeSparse = 22,
    kAttributeSparses = 23
  };
  enum Sparse : std::uint32_t { kSparseValues = 1, kSparseIndices = 2 };
  enum Tensor : std::uint32_t {
    kTensorDims = 1,
    kTensorElement = 2,
    kTensorName = 8,
    kTensorRaw = 9,
    kTensorExternal = 13
  };
  enum Entry : std::uint32_t { kEntryKey = 1, kEntryValue = 2 };
  enum Function : std::uint32_t { kFunctionNode = 7, kFunctionAttribute = 11 };
  enum Training : std::uint32_t { kTrainingInitialization = 1, kTrainingAlgorithm = 2 };
};

struct Malformed {
  std::string what;
};

std::string_view view(protozero::data_view data) { return {data.data(), data.size()}; }

// The bytes of a file, front to back, with a window of 64 KiB. Throws Malformed; never crosses this file's functions.
class Stream {
 public:
  Stream(int fd, std::uint64_t size) : fd_(fd), size_(size) {}

  std::uint64_t position() const { return position_; }
  std::uint64_t size() const { return size_; }
  void skip(std::uint64_t bytes) { position_ += bytes; }  // within a checked length

  std::uint64_t varint(std::uint64_t end) {
    std::uint64_t value = 0;
    for (unsigned shift = 0; shift < 64; shift += 7) {
      const std::uint8_t byte = next(end);
      value |= std::uint64_t{byte & 0x7fU} << shift;
      if ((byte & 0x80U) == 0) return value;
    }
    throw Malformed{"a number is longer than ten bytes"};
  }

  std::string bytes(std::uint64_t length) {
    if (length > kMaxSmall) throw Malformed{"a name or type is longer than 1 MiB"};
    std::string out;
    out.reserve(length);
    for (const std::uint64_t end = position_ + length; position_ < end;) out.push_back(static_cast<char>(next(end)));
    return out;
  }

 private:
  std::uint8_t next(std::uint64_t end) {
    if (position_ >= end) throw Malformed{"a field is cut off"};
    if (position_ < window_start_ || position_ >= window_start_ + window_size_) fill();
    return window_[position_++ - window_start_];
  }

  void fill() {
    ssize_t got = 0;
    do {
      got = ::pread(fd_, window_.data(), window_.size(), static_cast<off_t>(position_));
    } while (got < 0 && errno == EINTR);
    if (got < 0) throw Malformed{std::generic_category().message(errno)};
    if (got == 0) throw Malformed{"the file became shorter while it was read"};
    window_start_ = position_;
    window_size_ = static_cast<std::uint64_t>(got);
  }

  int fd_;
  std::uint64_t size_;
  std::uint64_t position_ = 0;
  std::uint64_t window_start_ = 0;
  std::uint64_t window_size_ = 0;
  std::array<std::uint8_t, 64 << 10> window_;
};

class Scanner {
 public:
  Scanner(Stream& stream, OnnxFile& file) : stream_(stream), file_(file) {}

  void model() {
    bool graph_seen = false;
    fields(stream_.size(), [&](std::uint32_t field, std::uint64_t end) {
      if (field == Field::kModelGraph) {
        graph_seen = true;
        graph(end, true);
      } else if (field == Field::kModelFunction) {
        function(end);
      } else if (field == Field::kModelTraining) {
        fields(end, [&](std::uint32_t inner, std::uint64_t inner_end) {
          if (inner == Field::kTrainingInitialization || inner == Field::kTrainingAlgorithm) graph(inner_end, false);
        });
      }
    });
    if (!graph_seen) throw Malformed{"it holds no graph"};
  }

 private:
  // Calls on_message(field, end) for every length-delimited field up to `end`, skips what the call left unread, and
  // calls on_number(field, value) for every number of variable length.
  template <class OnMessage, class OnNumber>
  void fields(std::uint64_t end, OnMessage on_message, OnNumber on_number) {
    if (++depth_ > kMaxDepth) throw Malformed{"its messages are nested more than 100 deep"};
    while (stream_.position() < end) {
      const std::uint64_t tag = stream_.varint(end);
      if (tag > UINT32_MAX) throw Malformed{"a field number is too large"};
      std::uint64_t length = 0;
      switch (tag & 7U) {
        case kVarint:
          on_number(static_cast<std::uint32_t>(tag >> 3), stream_.varint(end));
          continue;
        case kFixed64:
          length = 8;
          break;
        case kFixed32:
          length = 4;
          break;
        case kLengthDelimited:
          length = stream_.varint(end);
          break;
        default:
          throw Malformed{"a field has a wire type that ONNX does not use"};
      }
      if (length > end - stream_.position()) throw Malformed{"a field is cut off"};
      const std::uint64_t field_end = stream_.position() + length;
      if ((tag & 7U) == kLengthDelimited) on_message(static_cast<std::uint32_t>(tag >> 3), field_end);
      stream_.skip(field_end - stream_.position());
    }
    --depth_;
  }
  template <class OnMessage>
  void fields(std::uint64_t end, OnMessage on_message) {
    fields(end, on_message, [](std::uint32_t, std::uint64_t) {});
  }

  void graph(std::uint64_t end, bool main) {
    fields(end, [&](std::uint32_t field, std::uint64_t field_end) {
      if (field == Field::kGraphNode) {
        node(field_end);
      } else if (field == Field::kGraphInitializer) {
        StoredTensor stored;
        const std::string name = tensor(field_end, &stored);
        if (!main) return;
        file_.initializers.insert(name);
        if (stored.size >= kSmallestStored) file_.stored.push_back(std::move(stored));
      } else if (field == Field::kGraphSparse) {
        sparse(field_end);
      } else if (main && field == Field::kGraphInput) {
        value_info(field_end, file_.inputs);
      } else if (main && field == Field::kGraphOutput) {
        value_info(field_end, file_.outputs);
      }
    });
  }

  void function(std::uint64_t end) {
    fields(end, [&](std::uint32_t field, std::uint64_t field_end) {
      if (field == Field::kFunctionNode) node(field_end);
      if (field == Field::kFunctionAttribute) attribute(field_end);
    });
  }

  void node(std::uint64_t end) {
    fields(end, [&](std::uint32_t field, std::uint64_t field_end) {
      if (field == Field::kNodeAttribute) attribute(field_end);
    });
  }

  void attribute(std::uint64_t end) {
    fields(end, [&](std::uint32_t field, std::uint64_t field_end) {
      if (field == Field::kAttributeTensor || field == Field::kAttributeTensors) tensor(field_end);
      if (field == Field::kAttributeGraph || field == Field::kAttributeGraphs) graph(field_end, false);
      if (field == Field::kAttributeSparse || field == Field::kAttributeSparses) sparse(field_end);
    });
  }

  void sparse(std::uint64_t end) {
    fields(end, [&](std::uint32_t field, std::uint64_t field_end) {
      if (field == Field::kSparseValues || field == Field::kSparseIndices) tensor(field_end);
    });
  }

  // A tensor with a location counts as external whatever its data_location field says: parsers merge a message that
  // is written in two pieces, and a scan that trusted one piece could be fooled by the other.
  std::string tensor(std::uint64_t end, StoredTensor* stored = nullptr) {
    ExternalData external;
    std::vector<std::string> locations;
    StoredTensor found;
    const auto on_message = [&](std::uint32_t field, std::uint64_t field_end) {
      const std::uint64_t length = field_end - stream_.position();
      if (field == Field::kTensorName) external.tensor = stream_.bytes(length);
      if (field == Field::kTensorDims) {  // packed
        while (stream_.position() < field_end)
          found.dims.push_back(static_cast<std::int64_t>(stream_.varint(field_end)));
      }
      if (field == Field::kTensorRaw) {
        found.offset = stream_.position();
        found.size = length;
      }
      if (field != Field::kTensorExternal) return;
      const std::string entry = stream_.bytes(length);
      std::string key;
      std::string value;
      for (protozero::pbf_reader reader(entry); reader.next();) {
        switch (reader.tag_and_type()) {
          case protozero::tag_and_type(Field::kEntryKey, protozero::pbf_wire_type::length_delimited):
            key = view(reader.get_view());
            break;
          case protozero::tag_and_type(Field::kEntryValue, protozero::pbf_wire_type::length_delimited):
            value = view(reader.get_view());
            break;
          default:
            reader.skip();
        }
      }
      if (key == "location") locations.push_back(value);
      if (key == "offset") external.offset = number(value, external.tensor);
      if (key == "length") external.length = number(value, external.tensor);
    };
    fields(end, on_message, [&found](std::uint32_t field, std::uint64_t value) {
      if (field == Field::kTensorDims) found.dims.push_back(static_cast<std::int64_t>(value));
      if (field == Field::kTensorElement) found.element = static_cast<int>(value & 0x7fffffffU);
    });
    for (const std::string& location : locations) {
      external.location = location;
      file_.external.push_back(external);
    }
    if (stored != nullptr && locations.empty()) {
      found.name = external.tensor;
      *stored = std::move(found);
    }
    return external.tensor;
  }

  static std::uint64_t number(const std::string& text, const std::string& tensor) {
    std::uint64_t value = 0;
    const auto [rest, error] = std::from_chars(text.data(), text.data() + text.size(), value);
    if (error != std::errc() || rest != text.data() + text.size())
      throw Malformed{"the external data of tensor '" + tensor + "' has the offset or length '" + text +
                      "', which is no number of bytes"};
    return value;
  }

  // ValueInfoProto: name 1, type 2; TypeProto: tensor_type 1; its Tensor: shape 2.
  void value_info(std::uint64_t end, std::set<std::string>& names) {
    const std::string message = stream_.bytes(end - stream_.position());
    std::string name;
    bool tensor = false;
    bool shape = false;
    protozero::pbf_reader info(message);
    while (info.next()) {
      if (info.tag_and_type() == protozero::tag_and_type(1, protozero::pbf_wire_type::length_delimited)) {
        name = info.get_string();
      } else if (info.tag_and_type() == protozero::tag_and_type(2, protozero::pbf_wire_type::length_delimited)) {
        protozero::pbf_reader type = info.get_message();
        while (type.next(1, protozero::pbf_wire_type::length_delimited)) {
          tensor = true;
          protozero::pbf_reader tensor_type = type.get_message();
          while (tensor_type.next(2, protozero::pbf_wire_type::length_delimited)) {
            shape = true;
            tensor_type.skip();
          }
        }
      } else {
        info.skip();
      }
    }
    names.insert(name);
    if (tensor && !shape) file_.unranked.insert(name);
  }

  Stream& stream_;
  OnnxFile& file_;
  int depth_ = 0;
};

bool is_below(const std::filesystem::path& path, const std::filesystem::path& folder) {
  auto [rest, _] = std::mismatch(folder.begin(), folder.end(), path.begin(), path.end());
  return rest == folder.end();
}

}  // namespace

Result<OnnxFile> read_onnx_file(const std::string& path) {
  const Descriptor file(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  if (file.get() < 0) {
    const int error = errno;
    const Code code = error == ENOENT || error == ENOTDIR ? Code::kNotFound : Code::kInvalidArgument;
    return Status(code, "Model file " + path + " cannot be opened: " + std::generic_category().message(error) + ".");
  }
  struct stat info {};
  if (::fstat(file.get(), &info) != 0 || !S_ISREG(info.st_mode))
    return invalid_argument("Model file " + path + " is not a regular file.");
  OnnxFile out;
  Stream stream(file.get(), static_cast<std::uint64_t>(info.st_size));
  try {
    Scanner(stream, out).model();
  } catch (const Malformed& malformed) {
    return invalid_argument("Model file " + path + " is not a readable ONNX model: " + malformed.what + ".");
  } catch (const protozero::exception& error) {
    return invalid_argument("Model file " + path + " is not a readable ONNX model: " + error.what() + ".");
  }
  return out;
}

Status check_external_data(const OnnxFile& file, const std::string& model_file, const std::string& model_dir) {
  if (file.external.empty()) return {};
  namespace fs = std::filesystem;
  std::error_code error;
  const fs::path root = fs::canonical(model_dir, error);
  if (error)
    return invalid_argument("The model's folder " + model_dir + " cannot be resolved: " + error.message() + ".");
  const fs::path base = fs::path(model_file).parent_path();
  for (const ExternalData& data : file.external) {
    const std::string what =
        "Model file " + model_file + ": the external data '" + data.location + "' of tensor '" + data.tensor + "' ";
    const fs::path written(data.location);
    if (data.location.empty() || data.location.find('\0') != std::string::npos || written.is_absolute() ||
        std::find(written.begin(), written.end(), "..") != written.end())
      return invalid_argument(what + "must be a plain relative path below the model's folder " + model_dir +
                              ": save the model with its data beside it.");
    const fs::path resolved = fs::canonical(base / written, error);
    if (error)
      return invalid_argument(what + "cannot be found: " + error.message() + ". Copy it into the model's folder.");
    if (!is_below(resolved, root))
      return invalid_argument(what + "leads out of the model's folder " + model_dir + " (to " + resolved.string() +
                              "): copy the file there instead of linking it.");
    if (!fs::is_regular_file(resolved, error)) return invalid_argument(what + "is not a regular file.");
    const std::uintmax_t size = fs::file_size(resolved, error);
    if (error) return invalid_argument(what + "cannot be read: " + error.message() + ".");
    if (data.offset > size || data.length > size - data.offset)
      return invalid_argument(what + "is cut off: bytes " + std::to_string(data.offset) + " to " +
                              std::to_string(data.offset) + "+" + std::to_string(data.length) + " of a file of " +
                              std::to_string(size) + ".");
  }
  return {};
}

}  // namespace headrace
