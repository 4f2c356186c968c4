// The answer to an inference over HTTP: the response's bytes, and the head that goes before them.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"
#include "batching/request.h"
#include "engine/model.h"
#include "wire/intake.h"
#include "wire/json_codec.h"
#include "wire/output.h"
#include "wire/predict_codec.h"

namespace headrace {

// Whose protocol an inference is of.
enum class HttpForm : std::uint8_t {
  kInfer,     // the Open Inference Protocol's
  kGenerate,  // Triton's generate extension: the same request, and a flat object as the answer
  kPredict,   // TensorFlow Serving's
  kWeb,       // gRPC-Web's: a ModelInferRequest in its frame, which names the model itself
  kBareWeb,   // the same without a head
  kEvents,    // as kGenerate, each answer a server-sent event
};
constexpr bool is_web(HttpForm form) { return form == HttpForm::kWeb || form == HttpForm::kBareWeb; }

struct HttpAnswer {
  std::uint32_t exchange = 0;
  Status status;     // not OK: the owner writes the answer
  int http = 0;      // the HTTP status of a refusal where the code's own would say too little; 0: the code's own
  std::string head;  // status line and headers, with the empty line; empty where the owner writes its own
  wire::OutMessage body;
  bool in_pieces = false;  // nothing of this: the answer comes from take_pieces()
  Block room;              // what counts the body's own bytes, where they are many, against the pool's cap
};

struct HttpResult;

// Answers with binary outputs only: all in front of their bytes is mostly the same from answer to answer, so it is
// kept, and compared instead of written. Of one loop.
class KnownAnswers {
 public:
  static constexpr std::size_t kMostBytes = 4096;  // of an answer

  // False: such an answer was not kept.
  bool write(const HttpResult& result, HttpAnswer& answer) const;
  // `answer` is what `result` was written as.
  void keep(const HttpResult& result, const HttpAnswer& answer, std::size_t json_bytes);

 private:
  static constexpr std::size_t kPlaces = 16;
  struct Output {
    std::string name;
    DType dtype = DType::kInvalid;  // it was not wanted
    Shape shape;
    std::size_t size = 0;
  };
  struct Known {
    std::string model;
    std::string version;
    std::string headers;
    wire::Encoding encoding = wire::Encoding::kIdentity;
    std::vector<Output> outputs;
    std::string head;
    std::string json;
  };
  static bool same(const Known& known, const HttpResult& result);
  static std::size_t place(const HttpResult& result);

  std::array<std::unique_ptr<Known>, kPlaces> known_;  // by their model
};

// A ticket's outputs and how they are to be written: all that an answer is made of, on any thread.
struct HttpResult {
  // Bodies smaller than this are sent as they are, whatever is accepted: they would hardly shrink.
  static constexpr std::size_t kWorthCompressing = 1024;

  const Model* model = nullptr;
  std::vector<Tensor> outputs;          // in the signature's order; kInvalid where not wanted
  std::vector<OutputRequest> requests;  // of the ticket, where it asks for more than its outputs as they are
  std::vector<wire::OutputForm> forms;
  std::string id;
  bool timing = false;
  std::int64_t batch_rows = 0;
  Timeline time;
  wire::Encoding encoding = wire::Encoding::kIdentity;  // that the caller accepts
  std::string headers;                                  // of the owner's, "Name: value\r\n" each
  HttpForm form = HttpForm::kInfer;
  wire::PredictForm predict_form = wire::PredictForm::kRows;
  bool piece = false;  // of an answer in pieces, whose head is the owner's

  // Too much for an event loop.
  bool heavy() const;
  // Fills head and body, or the status. `known` may be null.
  void write(HttpAnswer& answer, KnownAnswers* known = nullptr) const;
  // The same where text is long: it counts against the cap of `pool`. RESOURCE_EXHAUSTED: there is no room for it.
  void write_counted(HttpAnswer& answer, Pool& pool) const;

 private:
  bool may_be_known() const;
  std::size_t text_bytes() const;  // about
  Status write_body(HttpAnswer& answer, std::size_t& json_bytes) const;
  wire::InferResponse response(std::vector<wire::ResponseOutput>& outputs, std::vector<wire::OutputForm>& present,
                               wire::ResponseParameter* timing) const;
};

}  // namespace headrace
