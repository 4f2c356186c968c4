// One loaded ONNX model: runs batches, with inputs bound where they lie and outputs written straight into pooled blocks
// wherever their shapes can be told beforehand.
#pragma once

#include <memory>

#include "backend/backend.h"
#include "backend/onnx_file.h"
#include "backend/ort_library.h"

namespace headrace {

namespace ort {
using SessionHandle = Owned<Session, ReleaseSession>;
}  // namespace ort

// `staging`: for what is copied to its device and back; null: it runs where ordinary memory is.
std::unique_ptr<Session> make_ort_session(const ort::Library& library, ort::SessionHandle session, Signature signature,
                                          const OnnxFile& file, Placement placement,
                                          std::shared_ptr<Pool> staging = nullptr,
                                          std::unique_ptr<ort::SharedWeights::Loan> loan = nullptr);

}  // namespace headrace
