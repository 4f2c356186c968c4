// Compressing what goes out, for callers that accept it.
#pragma once

#include <cstddef>

#include "wire/intake.h"
#include "wire/output.h"

namespace headrace::wire {

// Replaces the message by its compressed form, in bytes of its own; quickly rather than small. kIdentity: nothing
// happens. RESOURCE_EXHAUSTED when there is no memory for it, and the message is as it was.
Status deflate(Encoding encoding, OutMessage& message);

}  // namespace headrace::wire
