// Headers of a call as parameters of its inference request: which of them, by their names, and what their text means.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <unordered_map>

#include "base/error.h"
#include "wire/infer_codec.h"
#include "wire/metadata.h"

namespace headrace {

// Chooses headers by name. Whether a name is wanted is the owner's to say (a regular expression); it is asked once for
// each, and its answers are kept. Of one loop, used on its thread.
class HeaderForward {
 public:
  // `name` is in lower case. Must not throw.
  using Wants = std::function<bool(std::string_view name)>;
  static constexpr std::size_t kMaxNameBytes = 256;  // a longer name is not asked for, and not wanted
  static constexpr std::size_t kMaxKnown = 1024;     // names whose answer is kept
  static constexpr std::size_t kMaxAsked = 1024;     // in one step of the loop: an answer takes about 1 us

  // Null: no header is wanted.
  explicit HeaderForward(Wants wants) : wants_(std::move(wants)) {}
  HeaderForward(const HeaderForward&) = delete;
  HeaderForward& operator=(const HeaderForward&) = delete;

  bool on() const { return wants_ != nullptr; }
  // The headers of one call: begin(), and add() for each. Those that are wanted are in chosen(), in their order, names
  // in lower case, until the next begin(). A "-bin" header holds bytes, which are no text: it is never wanted.
  // `step`: a number that differs from step to step. RESOURCE_EXHAUSTED: too many names were new in this one.
  void begin(std::uint64_t step);
  Status add(std::string_view name, std::string_view value);
  Status choose(const wire::Metadata& headers, std::uint64_t step);  // all of that
  const wire::Metadata& chosen() const { return chosen_; }

 private:
  struct Hash {
    using is_transparent = void;
    std::size_t operator()(std::string_view name) const { return std::hash<std::string_view>()(name); }
  };

  const Wants wants_;
  std::unordered_map<std::string, bool, Hash, std::equal_to<>> known_;
  wire::Metadata chosen_;
  std::uint64_t step_ = 0;
  std::size_t asked_ = 0;
};

// Makes parameters of the request of them, behind its own. What the request says itself counts before a header of that
// name; of a header that was sent twice the last one counts. Parameters that mean something here get the type that they
// have there: a flag is "true" or "false", a number is in digits; any other is a string. The views are into `headers`.
// INVALID_ARGUMENT names the header whose text is no such value, a name that begins with triton_ and is not known, or
// the limit (--max-parameters).
Status add_parameters(const wire::Metadata& headers, const wire::InferLimits& limits, wire::InferRequest& request);

}  // namespace headrace
