// What a loaded ONNX model says of itself, as a Signature; and the element types that both sides know.
#pragma once

#include <string>

#include "backend/backend.h"
#include "backend/onnx_file.h"
#include "backend/ort_library.h"

namespace headrace::ort {

// Element::kUndefined for kInvalid; DType::kInvalid for what the protocol has no word for.
Element element_of(DType dtype);
DType dtype_of(Element element);

// UNIMPLEMENTED names the input or output that cannot be served and what to do about it.
Result<Signature> read_signature(const Library& library, const Session* session, const OnnxFile& file,
                                 const std::string& model_file);

}  // namespace headrace::ort
