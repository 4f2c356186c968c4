// An endpoint that carries streams of inferences (InferStream), whatever its protocol: what a stream asks of the call
// that it is, and how its messages are decoded, answered and logged.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string_view>

#include "base/error.h"
#include "front/endpoint.h"
#include "front/loop.h"
#include "wire/grpc.h"
#include "wire/infer_codec.h"

namespace headrace {

struct DecodeJob;

inline constexpr char kModelStreamInferPath[] = "/inference.GRPCInferenceService/ModelStreamInfer";

// What the access log can say of a request that became no ticket. Views, good for the step.
struct Asked {
  std::string_view model;
  std::string_view version;
  std::string_view request_id;
  std::size_t bytes = 0;
};

class StreamEndpoint : public Endpoint {
 public:
  using Endpoint::Endpoint;

 protected:
  friend class InferStream;

  // Of one call; what they mean is said at wire::GrpcConnection's functions of these names.
  virtual void send(wire::Call& call, wire::OutMessage& message) = 0;
  virtual void release_bytes(wire::Call& call, std::size_t bytes) = 0;
  virtual void pause_messages(wire::Call& call) = 0;
  [[nodiscard]] virtual bool resume_messages(wire::Call& call) = 0;
  virtual std::size_t output_waiting(const wire::Call& call) const = 0;
  virtual std::size_t hold_slot(wire::Call& call) = 0;
  virtual void release_slot(std::size_t held) = 0;
  // The stream is over: nothing of it is out any more.
  virtual void end_stream(wire::Call& call, const Status& status) = 0;
  // Of all calls: bytes of answers that wait.
  virtual std::size_t output_waiting() const = 0;

  void ask_again() { loop_.ask_again(*this); }
  // Into the loop's decoder, with the parameters that the call's headers are.
  Status decode(const wire::Call& call, const wire::Message& message);
  std::unique_ptr<DecodeJob> make_job(const wire::Call& call, wire::Message message, bool infer);
  bool submit_job(std::unique_ptr<DecodeJob>& job);  // false: the worker has too many already
  static Status too_many_jobs();
  // What a call of one answer gets from a model that may have any number.
  static Status decoupled_refusal(const Model& model);
  // What a request of such a model gets that wants more of its outputs than themselves.
  static Status parts_refusal(const Model& model);
  static Asked asked(const wire::InferRequest& request, std::size_t bytes) {
    return {request.model_name, request.model_version, request.id, bytes};
  }
  // What the ticket answers: views into it, and into the loop's scratch.
  wire::InferResponse response_of(const Ticket& ticket);
  // One answer of a stream, into the loop's `out_`. `final`: none follows for its request.
  void encode_stream_answer(const Ticket& ticket, bool final);
  void encode_stream_part(const Ticket& ticket, const Part& part);
  void encode_stream_error(const Status& status, wire::InferResponse response);
  // `answered`: as in AccessEntry.
  void log(const wire::Call& call, Nanos received, Code code, const Ticket* ticket, std::size_t request_bytes,
           std::size_t response_bytes, bool answered = true, const Asked* asked = nullptr);
};

}  // namespace headrace
