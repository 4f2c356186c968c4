// A tensor as JSON: this codec (the whole request, to a tensor of its dtype) against simdjson alone on the same bytes.
// simdjson is given its best: its copy with padding is made beforehand, and this file is compiled for the machine that
// it runs on. CPU time of one thread, all contenders in turn in each round, ratios pair by pair.
//
//   json_rate [rounds]
#include <simdjson.h>
#include <time.h>

#include <algorithm>
#include <charconv>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <random>
#include <string>
#include <vector>

#include "base/check.h"
#include "wire/json_codec.h"

namespace {

using namespace headrace;

double cpu_seconds() {
  timespec time{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
  return static_cast<double>(time.tv_sec) + 1e-9 * static_cast<double>(time.tv_nsec);
}

struct Case {
  std::string name;
  std::string json;
  DType dtype;
  Shape shape;
  std::vector<double> values;  // what the text says
};

template <class Number>
std::string text_of(Number number) {
  char text[32];
  return {text, std::to_chars(text, text + sizeof(text), number).ptr};
}

// Nested as the shape is, or flat; with Python's ", " or without spaces.
std::string request(const Case& data, const std::vector<std::string>& texts, bool nested, const char* comma) {
  std::string json = R"({"id":"1","inputs":[{"name":"image","datatype":")" + std::string(dtype_name(data.dtype)) +
                     R"(","shape":)" + data.shape.to_string() + R"(,"data":)";
  const auto dims = data.shape.dims();
  std::size_t next = 0;
  const std::function<void(std::size_t)> level = [&](std::size_t i) {
    json += '[';
    const auto count = nested ? static_cast<std::size_t>(dims[i]) : texts.size();
    for (std::size_t k = 0; k < count; ++k) {
      if (k != 0) json += comma;
      if (nested && i + 1 != dims.size()) {
        level(i + 1);
      } else {
        json += texts[next++];
      }
    }
    json += ']';
  };
  level(0);
  return json + R"(}],"outputs":[{"name":"y"}]})";
}

std::vector<Case> cases() {
  std::mt19937 random(20261121);
  const Shape image{1, 3, 224, 224};
  const Shape channels_last{1, 224, 224, 3};
  std::vector<float> pixels(150528);
  std::normal_distribution<float> normal(0, 1);
  for (float& pixel : pixels) pixel = normal(random);
  std::vector<std::string> shortest;
  std::vector<std::string> wide;
  std::vector<std::string> bytes;
  std::vector<double> shortest_values;
  std::vector<double> byte_values;
  for (const float pixel : pixels) {
    shortest.push_back(text_of(pixel));
    wide.push_back(text_of(static_cast<double>(pixel)));  // what Python writes of a float32
    bytes.push_back(text_of(random() % 256));
    shortest_values.push_back(static_cast<double>(pixel));
    byte_values.push_back(std::strtod(bytes.back().c_str(), nullptr));
  }
  std::vector<Case> all;
  const auto add = [&](const char* name, DType dtype, const Shape& shape, const std::vector<std::string>& texts,
                       const std::vector<double>& values, bool nested, const char* comma) {
    Case data{name, "", dtype, shape, values};
    data.json = request(data, texts, nested, comma);
    all.push_back(std::move(data));
  };
  add("FP32, 8 digits, flat", DType::kFp32, image, shortest, shortest_values, false, ",");
  add("FP32, 17 digits, flat", DType::kFp32, image, wide, shortest_values, false, ", ");
  add("FP32, 17 digits, nested", DType::kFp32, image, wide, shortest_values, true, ", ");
  add("FP32, 8 digits, [..,3]", DType::kFp32, channels_last, shortest, shortest_values, true, ",");
  add("FP64, 17 digits, flat", DType::kFp64, image, wide, shortest_values, false, ", ");
  add("UINT8, flat", DType::kUint8, image, bytes, byte_values, false, ", ");
  return all;
}

// The codec: what a request costs from its body to its tensor.
class Codec {
 public:
  void run(const Case& data) {
    const std::span<const std::byte> body(reinterpret_cast<const std::byte*>(data.json.data()), data.json.size());
    HEADRACE_CHECK(reader_.decode(body, body.size(), limits_, request_).ok());
    Result<Tensor> tensor = wire::convert_json_data(request_.inputs[0], data.dtype, data.values.size(), pool_);
    HEADRACE_CHECK(tensor.ok());
    tensor_ = std::move(*tensor);
  }
  double value(std::size_t i) const {
    if (tensor_.dtype == DType::kUint8) return static_cast<double>(tensor_.data[i]);
    if (tensor_.dtype == DType::kFp32) return static_cast<double>(at<float>(i));
    return at<double>(i);
  }

 private:
  template <class Element>
  Element at(std::size_t i) const {
    Element element;
    std::memcpy(&element, tensor_.data + i * sizeof(Element), sizeof(Element));
    return element;
  }
  wire::InferLimits limits_;
  wire::JsonReader reader_;
  wire::InferRequest request_;
  Pool pool_{PoolOptions{}};
  Tensor tensor_;
};

class Dom {
 public:
  void parse(const simdjson::padded_string& text) {
    HEADRACE_CHECK(parser_.parse(text).get(root_) == simdjson::SUCCESS);
  }
  // The least that a request would need on top of it.
  void values(const simdjson::padded_string& text, std::vector<double>& out) {
    parse(text);
    out.clear();
    read(root_["inputs"].at(0)["data"].value(), out);
  }

 private:
  static void read(simdjson::dom::element element, std::vector<double>& out) {
    for (const simdjson::dom::element child : simdjson::dom::array(element)) {
      if (child.is_array()) {
        read(child, out);
      } else {
        out.push_back(double(child));
      }
    }
  }
  simdjson::dom::parser parser_;
  simdjson::dom::element root_;
};

class OnDemand {
 public:
  void values(const simdjson::padded_string& text, std::vector<double>& out) {
    out.clear();
    simdjson::ondemand::document document = parser_.iterate(text);
    for (simdjson::ondemand::object input : document["inputs"].get_array()) {
      read(input["data"].get_array(), out);
    }
  }

 private:
  static void read(simdjson::ondemand::array array, std::vector<double>& out) {
    for (simdjson::ondemand::value child : array) {
      if (child.type() == simdjson::ondemand::json_type::array) {
        read(child.get_array(), out);
      } else {
        out.push_back(child.get_double());
      }
    }
  }
  simdjson::ondemand::parser parser_;
};

// What a reader built upon simdjson's index of structure would pay before it looks at a number.
class Index {
 public:
  void run(const simdjson::padded_string& text) {
    if (parser_.capacity() < text.size()) HEADRACE_CHECK(parser_.allocate(text.size()) == simdjson::SUCCESS);
    HEADRACE_CHECK(parser_.implementation->stage1(reinterpret_cast<const std::uint8_t*>(text.data()), text.size(),
                                                  simdjson::stage1_mode::regular) == simdjson::SUCCESS);
  }
  std::size_t bytes() const { return parser_.implementation->n_structural_indexes * sizeof(std::uint32_t); }

 private:
  simdjson::dom::parser parser_;
};

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

void measure(const Case& data, std::size_t rounds) {
  const simdjson::padded_string text(data.json);
  Codec codec;
  Dom dom;
  OnDemand ondemand;
  Index index;
  std::vector<double> out;
  const std::vector<std::pair<const char*, std::function<void()>>> contenders = {
      {"codec, to the tensor", [&] { codec.run(data); }},
      {"simdjson DOM, parse only", [&] { dom.parse(text); }},
      {"simdjson DOM, to doubles", [&] { dom.values(text, out); }},
      {"simdjson ondemand, to doubles", [&] { ondemand.values(text, out); }},
      {"simdjson stage 1 only", [&] { index.run(text); }},
  };
  for (const auto& [name, run] : contenders) run();  // warm, and right:
  for (std::size_t i = 0; i < data.values.size(); ++i) HEADRACE_CHECK(codec.value(i) == data.values[i]);
  std::vector<std::vector<double>> spent(contenders.size());
  for (std::size_t round = 0; round < rounds; ++round) {
    for (std::size_t k = 0; k < contenders.size(); ++k) {
      const std::size_t i = round % 2 == 0 ? k : contenders.size() - 1 - k;
      const double start = cpu_seconds();
      contenders[i].second();
      spent[i].push_back(cpu_seconds() - start);
    }
  }
  std::printf("%s: %zu bytes, %zu values (simdjson's index: %zu bytes)\n", data.name.c_str(), data.json.size(),
              data.values.size(), index.bytes());
  for (std::size_t i = 0; i < contenders.size(); ++i) {
    std::vector<double> ratios;
    for (std::size_t round = 0; round < rounds; ++round) ratios.push_back(spent[i][round] / spent[0][round]);
    const auto [least, most] = std::minmax_element(ratios.begin(), ratios.end());
    const double seconds = median(spent[i]);
    std::printf("  %-30s %7.3f ms %7.0f MB/s | codec's rate / this one's %.2f (%.2f..%.2f)\n", contenders[i].first,
                seconds * 1e3, static_cast<double>(data.json.size()) / seconds * 1e-6, median(ratios), *least, *most);
  }
}

}  // namespace

int main(int argc, char** argv) {
  const auto rounds = argc > 1 ? static_cast<std::size_t>(std::strtoull(argv[1], nullptr, 10)) : 41;
  std::printf("simdjson %s, kernel %s\n", SIMDJSON_STRINGIFY(SIMDJSON_VERSION),
              simdjson::get_active_implementation()->name().c_str());
  for (const Case& data : cases()) measure(data, rounds);
  return 0;
}
