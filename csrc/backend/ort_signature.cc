#include "backend/ort_signature.h"

#include <array>
#include <string_view>
#include <utility>

namespace headrace::ort {

namespace {

using headrace::Status;  // in this file a status is ours; the runtime's is ort::Status

struct ElementName {
  Element element;
  DType dtype;
  std::string_view name;
};

constexpr std::array kElements{
    ElementName{Element::kFloat, DType::kFp32, "float"},
    ElementName{Element::kUint8, DType::kUint8, "uint8"},
    ElementName{Element::kInt8, DType::kInt8, "int8"},
    ElementName{Element::kUint16, DType::kUint16, "uint16"},
    ElementName{Element::kInt16, DType::kInt16, "int16"},
    ElementName{Element::kInt32, DType::kInt32, "int32"},
    ElementName{Element::kInt64, DType::kInt64, "int64"},
    ElementName{Element::kString, DType::kBytes, "string"},
    ElementName{Element::kBool, DType::kBool, "bool"},
    ElementName{Element::kFloat16, DType::kFp16, "float16"},
    ElementName{Element::kDouble, DType::kFp64, "double"},
    ElementName{Element::kUint32, DType::kUint32, "uint32"},
    ElementName{Element::kUint64, DType::kUint64, "uint64"},
    ElementName{Element::kComplex64, DType::kInvalid, "complex64"},
    ElementName{Element::kComplex128, DType::kInvalid, "complex128"},
    ElementName{Element::kBfloat16, DType::kBf16, "bfloat16"},
    ElementName{Element::kFloat8E4M3FN, DType::kInvalid, "float8e4m3fn"},
    ElementName{Element::kFloat8E4M3FNUZ, DType::kInvalid, "float8e4m3fnuz"},
    ElementName{Element::kFloat8E5M2, DType::kInvalid, "float8e5m2"},
    ElementName{Element::kFloat8E5M2FNUZ, DType::kInvalid, "float8e5m2fnuz"},
    ElementName{Element::kUint4, DType::kInvalid, "uint4"},
    ElementName{Element::kInt4, DType::kInvalid, "int4"},
    ElementName{Element::kFloat4E2M1, DType::kInvalid, "float4e2m1"},
    ElementName{Element::kUint2, DType::kInvalid, "uint2"},
    ElementName{Element::kInt2, DType::kInvalid, "int2"},
};

std::string element_name(Element element) {
  for (const ElementName& row : kElements)
    if (row.element == element) return std::string(row.name);
  return "type number " + std::to_string(static_cast<int>(element));
}

using TypeHandle = Owned<TypeInfo, ReleaseTypeInfo>;

class Reader {
 public:
  Reader(const Library& library, const Session* session, const OnnxFile& file, const std::string& model_file)
      : library_(library), api_(library.api()), session_(session), file_(file), model_file_(model_file) {}

  Result<Signature> read() {
    Signature signature;
    Status status =
        specs<SessionGetInputCount, SessionGetInputName, SessionGetInputTypeInfo>("input", false, signature.inputs);
    if (status.ok())
      status = specs<SessionGetOverridableInitializerCount, SessionGetOverridableInitializerName,
                     SessionGetOverridableInitializerTypeInfo>("input", true, signature.inputs);
    if (status.ok())
      status = specs<SessionGetOutputCount, SessionGetOutputName, SessionGetOutputTypeInfo>("output", false,
                                                                                            signature.outputs);
    if (status.ok()) status = metadata(signature.metadata);
    if (!status.ok()) return status;
    return signature;
  }

 private:
  Status check(ort::Status* status) const {
    const Failure failure = take(api_, status);
    if (!failure) return {};
    return internal_error("Model file " + model_file_ + " cannot be described: " + failure.message);
  }

  // A string of the runtime's allocator, copied and given back.
  std::string owned(char* text) const {
    if (text == nullptr) return {};
    std::string copy(text);
    free(text);
    return copy;
  }
  void free(void* memory) const {
    static_cast<void>(take(api_, api_.call<AllocatorFree>(library_.allocator(), memory)));
  }

  Status refuse(std::string_view kind, const std::string& name, const std::string& is, const std::string& remedy) {
    return {Code::kUnimplemented, "Model file " + model_file_ + ": " + std::string(kind) + " '" + name + "' is " + is +
                                      ", which cannot be served: " + remedy + "."};
  }

  template <class Count, class Name, class Type>
  Status specs(std::string_view kind, bool optional, std::vector<TensorSpec>& out) {
    std::size_t count = 0;
    if (Status status = check(api_.call<Count>(session_, &count)); !status.ok()) return status;
    for (std::size_t i = 0; i < count; ++i) {
      TensorSpec spec;
      char* name = nullptr;
      if (Status status = check(api_.call<Name>(session_, i, library_.allocator(), &name)); !status.ok()) return status;
      spec.name = owned(name);
      spec.optional = optional;
      TypeHandle type(api_);
      if (Status status = check(api_.call<Type>(session_, i, type.out())); !status.ok()) return status;
      if (Status status = describe(kind, type.get(), spec); !status.ok()) return status;
      out.push_back(std::move(spec));
    }
    return {};
  }

  Status describe(std::string_view kind, const TypeInfo* type, TensorSpec& spec) {
    ValueKind value = ValueKind::kUnknown;
    if (Status status = check(api_.call<GetOnnxTypeFromTypeInfo>(type, &value)); !status.ok()) return status;
    const std::string rewrite = "export the model with plain tensors only";
    switch (value) {
      case ValueKind::kTensor:
        break;
      case ValueKind::kSequence:
        return refuse_sequence(kind, type, spec.name);
      case ValueKind::kMap:
        return refuse(kind, spec.name, "a map", zipmap());
      case ValueKind::kSparseTensor:
        return refuse(kind, spec.name, "a sparse tensor", rewrite);
      case ValueKind::kOptional:
        return refuse(kind, spec.name, "of an optional type", rewrite);
      default:
        return refuse(kind, spec.name, "no tensor", rewrite);
    }
    const TensorInfo* info = nullptr;  // belongs to `type`
    if (Status status = check(api_.call<CastTypeInfoToTensorInfo>(type, &info)); !status.ok()) return status;
    Element element = Element::kUndefined;
    if (Status status = check(api_.call<GetTensorElementType>(info, &element)); !status.ok()) return status;
    spec.dtype = dtype_of(element);
    if (spec.dtype == DType::kInvalid)
      return refuse(kind, spec.name, "of element type " + element_name(element),
                    "the protocol has no such type; put a Cast to one that it has at the model's edge");
    std::size_t rank = 0;
    if (Status status = check(api_.call<GetDimensionsCount>(info, &rank)); !status.ok()) return status;
    spec.dims.resize(rank);
    std::vector<const char*> symbols(rank, "");
    if (Status status = check(api_.call<GetDimensions>(info, spec.dims.data(), rank)); !status.ok()) return status;
    if (Status status = check(api_.call<GetSymbolicDimensions>(info, symbols.data(), rank)); !status.ok())
      return status;
    for (std::size_t i = 0; i < rank; ++i) {
      if (spec.dims[i] < 0) spec.dims[i] = -1;
      spec.symbols.emplace_back(symbols[i] != nullptr && spec.dims[i] < 0 ? symbols[i] : "");
    }
    spec.any_rank = rank == 0 && file_.unranked.contains(spec.name);
    return {};
  }

  static std::string zipmap() {
    return "convert the model again with zipmap=False (scikit-learn: convert_sklearn(model, options={'zipmap': "
           "False}); "
           "LightGBM and XGBoost: convert_...(model, zipmap=False))";
  }

  Status refuse_sequence(std::string_view kind, const TypeInfo* type, const std::string& name) {
    const SequenceInfo* sequence = nullptr;  // belongs to `type`
    if (Status status = check(api_.call<CastTypeInfoToSequenceTypeInfo>(type, &sequence)); !status.ok()) return status;
    TypeHandle element(api_);
    if (Status status = check(api_.call<GetSequenceElementType>(sequence, element.out())); !status.ok()) return status;
    ValueKind value = ValueKind::kUnknown;
    if (Status status = check(api_.call<GetOnnxTypeFromTypeInfo>(element.get(), &value)); !status.ok()) return status;
    if (value == ValueKind::kMap) return refuse(kind, name, "a sequence of maps", zipmap());
    return refuse(kind, name, "a sequence",
                  "export the model with plain tensors only (for one tensor out of a sequence, ConcatFromSequence)");
  }

  Status metadata(std::map<std::string, std::string>& out) {
    Owned<ModelMetadata, ReleaseModelMetadata> model(api_);
    if (Status status = check(api_.call<SessionGetModelMetadata>(session_, model.out())); !status.ok()) return status;
    Allocator* allocator = library_.allocator();

    char** keys = nullptr;
    std::int64_t count = 0;
    if (Status status = check(api_.call<ModelMetadataGetCustomMetadataMapKeys>(model.get(), allocator, &keys, &count));
        !status.ok())
      return status;
    Status status;
    for (std::int64_t i = 0; i < count; ++i) {
      char* value = nullptr;
      if (status.ok())
        status = check(api_.call<ModelMetadataLookupCustomMetadataMap>(model.get(), allocator,
                                                                       static_cast<const char*>(keys[i]), &value));
      out[owned(keys[i])] = owned(value);
    }
    if (keys != nullptr) free(keys);

    const auto field = [&](const char* key, auto slot) {
      char* text = nullptr;
      if (status.ok()) status = check(api_.call<decltype(slot)>(model.get(), allocator, &text));
      if (std::string value = owned(text); !value.empty()) out[key] = std::move(value);
    };
    field("producer", ModelMetadataGetProducerName{});
    field("graph", ModelMetadataGetGraphName{});
    field("domain", ModelMetadataGetDomain{});
    field("description", ModelMetadataGetDescription{});
    field("graph_description", ModelMetadataGetGraphDescription{});
    std::int64_t version = 0;
    if (status.ok()) status = check(api_.call<ModelMetadataGetVersion>(model.get(), &version));
    // 0 stands for "not stated", and so does the largest number (the runtime's own word for it).
    if (version > 0 && version != INT64_MAX) out["version"] = std::to_string(version);
    return status;
  }

  const Library& library_;
  const Api api_;
  const Session* session_;
  const OnnxFile& file_;
  const std::string& model_file_;
};

}  // namespace

Element element_of(DType dtype) {
  for (const ElementName& row : kElements)
    if (row.dtype == dtype && dtype != DType::kInvalid) return row.element;
  return Element::kUndefined;
}

DType dtype_of(Element element) {
  for (const ElementName& row : kElements)
    if (row.element == element) return row.dtype;
  return DType::kInvalid;
}

Result<Signature> read_signature(const Library& library, const Session* session, const OnnxFile& file,
                                 const std::string& model_file) {
  return Reader(library, session, file, model_file).read();
}

}  // namespace headrace::ort
