// The options of a session of ONNX Runtime: threads, optimisation and arena, as SessionOptions says; without providers.
#pragma once

#include "backend/backend.h"
#include "backend/ort_library.h"

namespace headrace::ort {

using OptionsHandle = Owned<SessionOptions, ReleaseSessionOptions>;

// `threads`: starts the session's compute threads; null: the runtime does.
Failure make_options(Api api, const headrace::SessionOptions& options, ThreadStarter* threads, OptionsHandle& out);

// For a session that runs on the CPU alone: its memory is that of Library::session_memory, unless it is to have no
// arena.
Failure use_session_memory(const Library& library, const headrace::SessionOptions& options, SessionOptions* out);

}  // namespace headrace::ort
