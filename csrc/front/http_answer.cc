#include "front/http_answer.h"

#include <array>

#include "front/response_outputs.h"
#include "front/step_work.h"
#include "wire/deflate.h"
#include "wire/grpc_web.h"

namespace headrace {
namespace {

constexpr std::size_t kLightCompression = std::size_t{16} << 10;  // bytes that a loop may compress itself

void append_number(std::string& text, std::string_view name, std::size_t value) {
  text += name;
  text += std::to_string(value);
  text += "\r\n";
}

}  // namespace

wire::InferResponse HttpResult::response(std::vector<wire::ResponseOutput>& given,
                                         std::vector<wire::OutputForm>& present,
                                         wire::ResponseParameter* parameters) const {
  list_outputs(outputs, requests, *model, given);
  for (std::size_t i = 0; i < forms.size(); ++i) {
    if (outputs[i]) present.push_back(forms[i]);
  }
  wire::InferResponse said;
  said.model_name = model->name;
  said.model_version = model->version_text;
  said.id = id;
  if (timing) {
    parameters[0] = {"headrace_batch_size", batch_rows};
    parameters[1] = {"headrace_queue_ns", time.started - time.queued};
    parameters[2] = {"headrace_compute_ns", time.finished - time.started};
    said.parameters = {parameters, 3};
  }
  said.outputs = given;
  return said;
}

bool HttpResult::heavy() const {
  std::size_t bytes = 0;
  for (const Tensor& output : outputs) bytes += output ? output.size : 0;
  // Far from any bound, as nearly all are: no need to look closer.
  constexpr std::size_t kSurelyLight = 4096;
  if (bytes <= kSurelyLight) return false;
  if (encoding != wire::Encoding::kIdentity && bytes > kLightCompression) return true;
  if (is_web(form)) return false;  // copied or handed on as it lies
  return text_bytes() > (encoding == wire::Encoding::kIdentity ? StepWork::kEachBytes : kLightCompression);
}

std::size_t HttpResult::text_bytes() const {
  std::vector<wire::ResponseOutput> given;
  std::vector<wire::OutputForm> present;
  std::array<wire::ResponseParameter, 3> parameters;
  const wire::InferResponse said = response(given, present, parameters.data());
  if (form == HttpForm::kGenerate || form == HttpForm::kEvents) present.assign(given.size(), wire::OutputForm::kText);
  return form == HttpForm::kPredict ? wire::predict_response_bytes(given) : wire::json_response_bytes(said, present);
}

namespace {

// Addresses that nobody uses, charged in the text's stead: it lies in a string.
Status count(Block& room, std::size_t bytes, Pool& pool) {
  if (room && bytes <= room.charged()) return {};
  room.reset();
  Result<Block> block = pool.reserve(bytes);
  if (!block) return block.status();
  if (!block->charge(bytes)) {
    return resource_exhausted("no room for " + std::to_string(bytes) +
                              " bytes of JSON: the pool (--pool-bytes) is full; try again, or ask for binary outputs");
  }
  room = std::move(*block);
  return {};
}

}  // namespace

void HttpResult::write_counted(HttpAnswer& answer, Pool& pool) const {
  if (!is_web(form)) answer.status = count(answer.room, text_bytes(), pool);
  if (answer.status.ok()) write(answer);
  // Strings with much to escape are longer than was reckoned.
  if (answer.status.ok() && answer.room) answer.status = count(answer.room, answer.body.own.capacity(), pool);
  if (!answer.status.ok()) answer.body.clear();
}

Status HttpResult::write_body(HttpAnswer& answer, std::size_t& json_bytes) const {
  std::vector<wire::ResponseOutput> given;
  std::vector<wire::OutputForm> present;
  given.reserve(outputs.size());
  present.reserve(outputs.size());
  std::array<wire::ResponseParameter, 3> parameters;
  const wire::InferResponse said = response(given, present, parameters.data());
  if (is_web(form)) {
    wire::encode_infer_response(said, answer.body);
    wire::frame_web_response(answer.body);
    return {};
  }
  if (form == HttpForm::kGenerate || form == HttpForm::kEvents) {
    return wire::encode_generate_response(said, form == HttpForm::kEvents, answer.body);
  }
  if (form == HttpForm::kPredict) return wire::encode_predict_response(given, predict_form, answer.body);
  return wire::encode_json_response(said, present, answer.body, json_bytes);
}

bool HttpResult::may_be_known() const {
  if (form != HttpForm::kInfer || !id.empty() || timing || !requests.empty()) return false;
  std::size_t bytes = 0;
  for (std::size_t i = 0; i < outputs.size(); ++i) {
    if (!outputs[i]) continue;
    bytes += outputs[i].size;
    if (forms[i] != wire::OutputForm::kBinary) return false;
  }
  return bytes <= KnownAnswers::kMostBytes;
}

std::size_t KnownAnswers::place(const HttpResult& result) {
  return reinterpret_cast<std::uintptr_t>(result.model) / alignof(std::max_align_t) % kPlaces;
}

// The model is compared by name: another may lie where it was.
bool KnownAnswers::same(const Known& known, const HttpResult& result) {
  if (known.model != result.model->name || known.version != result.model->version_text ||
      known.headers != result.headers || known.encoding != result.encoding ||
      known.outputs.size() != result.outputs.size()) {
    return false;
  }
  for (std::size_t i = 0; i < known.outputs.size(); ++i) {
    const Output& before = known.outputs[i];
    const Tensor& now = result.outputs[i];
    if (before.dtype != now.dtype) return false;
    if (!now) continue;
    if (before.size != now.size || before.shape != now.shape ||
        before.name != result.model->signature.outputs[i].name) {
      return false;
    }
  }
  return true;
}

bool KnownAnswers::write(const HttpResult& result, HttpAnswer& answer) const {
  const std::unique_ptr<Known>& known = known_[place(result)];
  if (!known || !same(*known, result)) return false;
  std::size_t size = known->json.size();
  for (const Output& output : known->outputs) size += output.size;
  answer.head = known->head;
  std::string& body = answer.body.own;
  body.reserve(size);
  body = known->json;
  for (const Tensor& output : result.outputs) {
    if (output && output.size != 0) body.append(reinterpret_cast<const char*>(output.data), output.size);
  }
  return true;
}

void KnownAnswers::keep(const HttpResult& result, const HttpAnswer& answer, std::size_t json_bytes) {
  std::unique_ptr<Known>& known = known_[place(result)];
  if (!known) known = std::make_unique<Known>();
  known->model = result.model->name;
  known->version = result.model->version_text;
  known->headers = result.headers;
  known->encoding = result.encoding;
  known->outputs.resize(result.outputs.size());
  for (std::size_t i = 0; i < result.outputs.size(); ++i) {
    const Tensor& output = result.outputs[i];
    known->outputs[i] = {result.model->signature.outputs[i].name, output.dtype, output.shape, output.size};
  }
  known->head = answer.head;
  known->json = answer.body.own.substr(0, json_bytes);
}

void HttpResult::write(HttpAnswer& answer, KnownAnswers* known) const {
  if (known != nullptr && !may_be_known()) known = nullptr;
  if (known != nullptr && known->write(*this, answer)) return;
  std::size_t json_bytes = 0;
  answer.status = write_body(answer, json_bytes);
  if (!answer.status.ok() || piece || form == HttpForm::kBareWeb) return;
  std::size_t size = answer.body.size();
  const bool compressed = encoding != wire::Encoding::kIdentity && size >= kWorthCompressing;
  if (compressed) {
    answer.status = wire::deflate(encoding, answer.body);
    if (!answer.status.ok()) return;
    size = answer.body.size();
  }
  std::string& head = answer.head;
  head.reserve(192 + headers.size());
  head = "HTTP/1.1 200 OK\r\n";
  if (is_web(form)) {
    head += "Content-Type: application/grpc-web+proto\r\n";
  } else if (form == HttpForm::kEvents) {
    head += "Content-Type: text/event-stream; charset=utf-8\r\nCache-Control: no-cache\r\n";
  } else if (json_bytes == 0) {
    head += "Content-Type: application/json\r\n";
  } else {
    head += "Content-Type: application/octet-stream\r\n";
    append_number(head, "Inference-Header-Content-Length: ", json_bytes);
  }
  if (compressed) {
    head += encoding == wire::Encoding::kGzip ? "Content-Encoding: gzip\r\n" : "Content-Encoding: deflate\r\n";
  }
  append_number(head, "Content-Length: ", size);
  head += headers;
  head += "\r\n";
  if (known != nullptr && json_bytes != 0 && !compressed && size <= KnownAnswers::kMostBytes)
    known->keep(*this, answer, json_bytes);
}

}  // namespace headrace
