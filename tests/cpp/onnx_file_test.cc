#include "backend/onnx_file.h"

#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <map>

#include "model_fixture.h"
#include "temporary_folder.h"

namespace headrace::testing {
namespace {

namespace fs = std::filesystem;

class OnnxFileTest : public BackendTest {
 protected:
  OnnxFile read(std::string_view name) {
    auto file = read_onnx_file(model_file(name));
    EXPECT_TRUE(file.ok()) << file.status().to_string();
    return file.ok() ? std::move(*file) : OnnxFile();
  }
  Status checked(const std::string& name) {
    const std::string path = model_file(name + "/model");
    auto file = read_onnx_file(path);
    if (!file) return file.status();
    return check_external_data(*file, path, models_ + "/" + name);
  }
  std::string written(const std::string& bytes) {
    const fs::path path = folder_ / "model.onnx";
    std::ofstream(path, std::ios::binary) << bytes;
    return path.string();
  }

  TemporaryFolder folder_;
};

std::string varint(std::size_t value) {
  std::string out;
  for (; value > 0x7f; value >>= 7) out += static_cast<char>((value & 0x7f) | 0x80);
  return out + static_cast<char>(value);
}

// A length-delimited field of protobuf's wire format.
std::string field(std::size_t number, const std::string& bytes) {
  return varint(number << 3 | 2) + varint(bytes.size()) + bytes;
}

std::string entry(const std::string& key, const std::string& value) {
  return field(13, field(1, key) + field(2, value));
}

TEST_F(OnnxFileTest, ListsInputsOutputsAndInitializers) {
  const OnnxFile file = read("optional_input");
  EXPECT_EQ(file.inputs, (std::set<std::string>{"x", "scale"}));
  EXPECT_EQ(file.outputs, (std::set<std::string>{"y"}));
  EXPECT_EQ(file.initializers, (std::set<std::string>{"scale"}));
  EXPECT_TRUE(file.unranked.empty());
  EXPECT_TRUE(file.external.empty());
}

TEST_F(OnnxFileTest, TellsAScalarFromNoShape) {
  EXPECT_TRUE(read("scalar").unranked.empty());
  EXPECT_EQ(read("unranked").unranked, (std::set<std::string>{"x", "y"}));
}

TEST_F(OnnxFileTest, SaysWhereWeightsLie) {
  const OnnxFile file = read("weights_mixed");
  std::map<std::string, StoredTensor> stored;
  for (const StoredTensor& tensor : file.stored) stored[tensor.name] = tensor;
  ASSERT_EQ(stored.size(), 3U) << "strings and numbers that are no bytes are not among them";
  const StoredTensor& table = stored.at("table");
  EXPECT_EQ(table.element, 1);
  EXPECT_EQ(table.dims, (std::vector<std::int64_t>{4096, 64}));
  EXPECT_EQ(table.size, 4096U * 64 * 4);
  EXPECT_EQ(stored.at("outer").dims, (std::vector<std::int64_t>{64, 64}));
  EXPECT_EQ(stored.at("scale").size, 512U * 4);
  // Before the bytes stand the field's number and their length.
  std::ifstream bytes(model_file("weights_mixed"), std::ios::binary);
  const std::string before = field(9, std::string(table.size, 'x')).substr(0, 5);
  std::string found(5, ' ');
  bytes.seekg(static_cast<std::streamoff>(table.offset) - 4);
  bytes.read(found.data(), 4);
  EXPECT_EQ(found.substr(0, 4), before.substr(0, 4));
  EXPECT_TRUE(read("mlp").stored.size() > 2);
  EXPECT_TRUE(read("add_sub").stored.empty());
}

TEST_F(OnnxFileTest, FindsExternalDataWhereverItIs) {
  for (const char* name : {"external_inside", "external_constant_inside", "external_subgraph_inside"}) {
    const OnnxFile file = read(std::string(name) + "/model");
    ASSERT_EQ(file.external.size(), 1U) << name;
    EXPECT_EQ(file.external[0].tensor, "w");
    EXPECT_EQ(file.external[0].location, "weights.bin");
    EXPECT_EQ(file.external[0].length, 64U);
  }
}

// Parsers merge a tensor that comes in two pieces: neither piece alone may hide the location.
TEST_F(OnnxFileTest, FindsALocationInAPieceOfATensor) {
  const std::string piece = field(8, "w") + entry("location", "../a") + entry("location", "b");
  for (const std::string& graph :
       {field(5, piece), field(1, field(5, field(5, piece))), field(1, field(5, field(10, piece))),
        field(1, field(5, field(6, field(5, piece)))), field(1, field(5, field(11, field(5, piece)))),
        field(1, field(5, field(22, field(1, piece)))), field(1, field(5, field(23, field(2, piece)))),
        field(15, field(1, piece))}) {
    const auto file = read_onnx_file(written(field(7, graph)));
    ASSERT_TRUE(file.ok()) << file.status().to_string();
    ASSERT_EQ(file->external.size(), 2U);
    EXPECT_EQ(file->external[0].location, "../a");
    EXPECT_EQ(file->external[1].location, "b");
  }
  const auto function = read_onnx_file(written(field(7, "") + field(25, field(7, field(5, field(5, piece))))));
  ASSERT_TRUE(function.ok()) << function.status().to_string();
  EXPECT_EQ(function->external.size(), 2U);
}

TEST_F(OnnxFileTest, SkipsWeightsLargerThanItsWindow) {
  const std::string weights = field(8, "big") + field(9, std::string(300'000, '\x0a'));
  const auto file =
      read_onnx_file(written(field(7, field(5, weights) + field(5, field(8, "w") + entry("location", "f")))));
  ASSERT_TRUE(file.ok()) << file.status().to_string();
  EXPECT_EQ(file->initializers, (std::set<std::string>{"big", "w"}));
  ASSERT_EQ(file->external.size(), 1U);
}

TEST_F(OnnxFileTest, AnyCutOfAFileIsAnErrorOrAWholePrefix) {
  std::ifstream source(model_file("external_subgraph_inside/model"), std::ios::binary);
  const std::string bytes((std::istreambuf_iterator<char>(source)), {});
  ASSERT_GT(bytes.size(), 100U);
  std::size_t refused = 0;
  for (std::size_t length = 0; length < bytes.size(); ++length) {
    const auto file = read_onnx_file(written(bytes.substr(0, length)));
    if (file.ok()) continue;
    ++refused;
    EXPECT_EQ(file.status().code(), Code::kInvalidArgument);
    EXPECT_NE(file.status().message().find("is not a readable ONNX model"), std::string::npos);
  }
  EXPECT_GT(refused, bytes.size() - 40);  // only cuts between the model's own few fields leave a model
}

TEST_F(OnnxFileTest, MalformedFilesAreRefusedWithAReason) {
  std::string deep = "x";
  for (int i = 0; i < 60; ++i) deep = field(1, field(5, field(6, deep)));
  const std::vector<std::pair<std::string, std::string>> cases{
      {"", "it holds no graph"},
      {std::string("\x3a\xff\xff\xff\xff\x7f", 6), "a field is cut off"},
      {std::string("\x3a\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", 12), "longer than ten bytes"},
      {std::string("\x3b\x3c", 2), "wire type"},
      {std::string("\xfa\xff\xff\xff\xff\x0f\x01", 7), "field number is too large"},
      {field(7, deep), "nested more than 100 deep"},
      {field(7, field(5, field(8, "w") + entry("offset", "-1") + entry("location", "f"))), "'-1'"},
      {field(7, field(5, field(13, "\x0a\x7f"))), "not a readable ONNX model"}};
  for (const auto& [bytes, reason] : cases) {
    const auto file = read_onnx_file(written(bytes));
    EXPECT_EQ(file.status().code(), Code::kInvalidArgument) << reason;
    EXPECT_NE(file.status().message().find(reason), std::string::npos) << file.status().to_string();
    EXPECT_NE(file.status().message().find(folder_.string()), std::string::npos) << file.status().to_string();
  }
}

TEST_F(OnnxFileTest, MissingAndOddFiles) {
  EXPECT_EQ(read_onnx_file((folder_ / "none.onnx").string()).status().code(), Code::kNotFound);
  EXPECT_EQ(read_onnx_file(folder_.string()).status().code(), Code::kInvalidArgument);
  const std::string pipe = (folder_ / "pipe").string();
  ASSERT_EQ(::mkfifo(pipe.c_str(), 0600), 0);
  EXPECT_EQ(read_onnx_file(pipe).status().code(), Code::kInvalidArgument);
}

TEST_F(OnnxFileTest, DataBelowTheFolderIsAllowed) {
  for (const char* name : {"external_inside", "external_folder", "external_link_inside", "external_constant_inside",
                           "external_subgraph_inside"})
    EXPECT_TRUE(checked(name).ok()) << checked(name).to_string();
}

TEST_F(OnnxFileTest, EveryWayOutOfTheFolderIsRefused) {
  const std::vector<std::pair<std::string, std::string>> cases{
      {"external_absolute", "must be a plain relative path"},
      {"external_dotdot", "must be a plain relative path"},
      {"external_constant", "must be a plain relative path"},
      {"external_subgraph", "must be a plain relative path"},
      {"external_link", "leads out of the model's folder"},
      {"external_folder_link", "leads out of the model's folder"},
      {"external_missing", "cannot be found"},
      {"external_memory", "cannot be found"},
      {"external_short", "is cut off"}};
  for (const auto& [name, reason] : cases) {
    const Status status = checked(name);
    EXPECT_EQ(status.code(), Code::kInvalidArgument) << name;
    EXPECT_NE(status.message().find(reason), std::string::npos) << status.to_string();
    EXPECT_NE(status.message().find("of tensor 'w'"), std::string::npos) << status.to_string();
  }
}

TEST_F(OnnxFileTest, AFolderWhoseNameStartsLikeTheModelsIsOutside) {
  fs::create_directory(folder_ / "model");
  fs::create_directory(folder_ / "model-other");
  std::ofstream(folder_ / "model-other" / "w.bin") << "0123456789";
  fs::create_symlink("../model-other/w.bin", folder_ / "model" / "w.bin");
  OnnxFile file;
  file.external.push_back({"w", "w.bin", 0, 10});
  const std::string model = (folder_ / "model" / "model.onnx").string();
  EXPECT_FALSE(check_external_data(file, model, (folder_ / "model").string()).ok());
  EXPECT_TRUE(check_external_data(file, model, folder_.string()).ok());
  file.external[0].location = ".";
  EXPECT_FALSE(check_external_data(file, model, folder_.string()).ok());
  file.external[0].location = "";
  EXPECT_FALSE(check_external_data(file, model, folder_.string()).ok());
}

}  // namespace
}  // namespace headrace::testing
