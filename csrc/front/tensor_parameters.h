// What the parameters of one tensor of a request ask for: its bytes in shared memory, its best classes.
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>

#include "base/error.h"
#include "wire/infer_codec.h"

namespace headrace {

// `shared_memory_region`, `shared_memory_offset` (0 when it is not given) and `shared_memory_byte_size`.
struct SharedPlace {
  std::string_view region;
  std::uint64_t offset = 0;
  std::uint64_t bytes = 0;
};

// Where the bytes of an input are, or those of an output are to go; none: they are in the message. INVALID_ARGUMENT
// names the tensor and the parameter that is missing, or has the wrong type.
Result<std::optional<SharedPlace>> shared_place(const wire::WireInput& input);
Result<std::optional<SharedPlace>> shared_place(const wire::WireOutput& output);

// `classification`: the best so many of each row; 0: not asked for. INVALID_ARGUMENT when it is no number from 1.
Result<std::uint32_t> wanted_classes(const wire::WireOutput& output);

// Bytes that the inputs say they have in shared memory, no more than the largest number.
struct SharedInputs {
  std::uint64_t bytes = 0;
  std::uint64_t strings = 0;  // of these, BYTES: copied when the request is read, because they are looked at then
};
SharedInputs shared_inputs(const wire::InferRequest& request);

}  // namespace headrace
