// The slice of ONNX Runtime's C API that the backend calls, as facts: slot numbers, parameter types, enum values.
//
// The C API is one table of function pointers that only ever grows at its end, so a slot keeps its meaning in every
// later release. The wheels carry the library but no header; tests/cpp/ort_abi_test.cc guards this table by calling
// functions of known answer near both of its ends.
#pragma once

#include <cstddef>
#include <cstdint>

namespace headrace::ort {

// The lowest version of the table that has every slot below (GetBuildInfoString is its last).
inline constexpr std::uint32_t kApiVersion = 15;

// Opaque objects of the runtime.
struct Status;
struct Env;
struct Session;
struct SessionOptions;
struct RunOptions;
struct Value;
struct MemoryInfo;
struct TypeInfo;
struct TensorInfo;
struct ModelMetadata;
struct SequenceInfo;
struct CudaOptions;
struct TensorRtOptions;
struct PackedWeights;

// An allocator is no opaque object: callers may bring one. Fields beyond what `version` says are not read.
struct Allocator {
  std::uint32_t version;
  void* (*alloc)(Allocator*, std::size_t);
  void (*free)(Allocator*, void*);
  const MemoryInfo* (*info)(const Allocator*);
  void* (*reserve)(Allocator*, std::size_t);  // from version 18 on: for what is kept as long as its session
};

enum class Error : int {
  kOk = 0,
  kFail = 1,
  kInvalidArgument = 2,
  kNoSuchFile = 3,
  kNoModel = 4,
  kEngineError = 5,
  kRuntimeException = 6,
  kInvalidProtobuf = 7,
  kModelLoaded = 8,
  kNotImplemented = 9,
  kInvalidGraph = 10,
};

enum class LogSeverity : int { kVerbose = 0, kInfo = 1, kWarning = 2, kError = 3, kFatal = 4 };

enum class ValueKind : int {
  kUnknown = 0,
  kTensor = 1,
  kSequence = 2,
  kMap = 3,
  kOpaque = 4,
  kSparseTensor = 5,
  kOptional = 6,
};

enum class Element : int {
  kUndefined = 0,
  kFloat = 1,
  kUint8 = 2,
  kInt8 = 3,
  kUint16 = 4,
  kInt16 = 5,
  kInt32 = 6,
  kInt64 = 7,
  kString = 8,
  kBool = 9,
  kFloat16 = 10,
  kDouble = 11,
  kUint32 = 12,
  kUint64 = 13,
  kComplex64 = 14,
  kComplex128 = 15,
  kBfloat16 = 16,
  kFloat8E4M3FN = 17,
  kFloat8E4M3FNUZ = 18,
  kFloat8E5M2 = 19,
  kFloat8E5M2FNUZ = 20,
  kUint4 = 21,
  kInt4 = 22,
  kFloat4E2M1 = 23,
  kUint2 = 24,
  kInt2 = 25,
};

inline constexpr int kDeviceAllocator = 0;  // OrtAllocatorType
inline constexpr int kArenaAllocator = 1;
inline constexpr int kDefaultMemory = 0;     // OrtMemType
inline constexpr int kCpuOutputMemory = -1;  // which the CPU reads and a device writes: page-locked

using LogFunction = void (*)(void* context, LogSeverity severity, const char* category, const char* log_id,
                             const char* code_location, const char* message);

// What the library's one exported function, OrtGetApiBase, returns.
struct ApiBase {
  const void* (*get_api)(std::uint32_t version);  // null: the library does not know this version
  const char* (*get_version_string)();
};

template <std::size_t Index, class Function>
struct Slot;
template <std::size_t Index, class Return, class... Parameters>
struct Slot<Index, Return(Parameters...)> {
  static constexpr std::size_t index = Index;
  using Function = Return (*)(Parameters...);
};

// Functions that return a Status: null on success; the caller releases it. Release functions accept null.
using GetErrorCode = Slot<1, Error(const Status*)>;
using GetErrorMessage = Slot<2, const char*(const Status*)>;
using CreateEnvWithCustomLogger = Slot<4, Status*(LogFunction, void*, LogSeverity, const char*, Env**)>;
using DisableTelemetryEvents = Slot<6, Status*(const Env*)>;
using CreateSession = Slot<7, Status*(const Env*, const char*, const SessionOptions*, Session**)>;
using CreateSessionFromArray = Slot<8, Status*(const Env*, const void*, std::size_t, const SessionOptions*, Session**)>;
using Run = Slot<9, Status*(Session*, const RunOptions*, const char* const*, const Value* const*, std::size_t,
                            const char* const*, std::size_t, Value**)>;
using CreateSessionOptions = Slot<10, Status*(SessionOptions**)>;
using SetOptimizedModelFilePath = Slot<11, Status*(SessionOptions*, const char*)>;
using SetSessionExecutionMode = Slot<13, Status*(SessionOptions*, int)>;
using EnableMemPattern = Slot<16, Status*(SessionOptions*)>;
using DisableMemPattern = Slot<17, Status*(SessionOptions*)>;
using EnableCpuMemArena = Slot<18, Status*(SessionOptions*)>;
using DisableCpuMemArena = Slot<19, Status*(SessionOptions*)>;
using SetSessionLogSeverityLevel = Slot<22, Status*(SessionOptions*, int)>;
using SetSessionGraphOptimizationLevel = Slot<23, Status*(SessionOptions*, int)>;
using SetIntraOpNumThreads = Slot<24, Status*(SessionOptions*, int)>;
using SetInterOpNumThreads = Slot<25, Status*(SessionOptions*, int)>;
using SessionGetInputCount = Slot<30, Status*(const Session*, std::size_t*)>;
using SessionGetOutputCount = Slot<31, Status*(const Session*, std::size_t*)>;
using SessionGetOverridableInitializerCount = Slot<32, Status*(const Session*, std::size_t*)>;
using SessionGetInputTypeInfo = Slot<33, Status*(const Session*, std::size_t, TypeInfo**)>;
using SessionGetOutputTypeInfo = Slot<34, Status*(const Session*, std::size_t, TypeInfo**)>;
using SessionGetOverridableInitializerTypeInfo = Slot<35, Status*(const Session*, std::size_t, TypeInfo**)>;
using SessionGetInputName = Slot<36, Status*(const Session*, std::size_t, Allocator*, char**)>;
using SessionGetOutputName = Slot<37, Status*(const Session*, std::size_t, Allocator*, char**)>;
using SessionGetOverridableInitializerName = Slot<38, Status*(const Session*, std::size_t, Allocator*, char**)>;
using CreateRunOptions = Slot<39, Status*(RunOptions**)>;
using RunOptionsSetTerminate = Slot<46, Status*(RunOptions*)>;
using CreateTensorAsOrtValue = Slot<48, Status*(Allocator*, const std::int64_t*, std::size_t, Element, Value**)>;
using CreateTensorWithDataAsOrtValue =
    Slot<49, Status*(const MemoryInfo*, void*, std::size_t, const std::int64_t*, std::size_t, Element, Value**)>;
using GetTensorMutableData = Slot<51, Status*(Value*, void**)>;
using GetStringTensorDataLength = Slot<53, Status*(const Value*, std::size_t*)>;
using GetStringTensorContent = Slot<54, Status*(const Value*, void*, std::size_t, std::size_t*, std::size_t)>;
using CastTypeInfoToTensorInfo = Slot<55, Status*(const TypeInfo*, const TensorInfo**)>;
using GetOnnxTypeFromTypeInfo = Slot<56, Status*(const TypeInfo*, ValueKind*)>;
using GetTensorElementType = Slot<60, Status*(const TensorInfo*, Element*)>;
using GetDimensionsCount = Slot<61, Status*(const TensorInfo*, std::size_t*)>;
using GetDimensions = Slot<62, Status*(const TensorInfo*, std::int64_t*, std::size_t)>;
using GetSymbolicDimensions = Slot<63, Status*(const TensorInfo*, const char**, std::size_t)>;
using GetTensorTypeAndShape = Slot<65, Status*(const Value*, TensorInfo**)>;
using CreateMemoryInfo = Slot<68, Status*(const char*, int, int, int, MemoryInfo**)>;
using CreateCpuMemoryInfo = Slot<69, Status*(int, int, MemoryInfo**)>;
using AllocatorFree = Slot<76, Status*(Allocator*, void*)>;
using GetAllocatorWithDefaultOptions = Slot<78, Status*(Allocator**)>;
using CreateValue = Slot<82, Status*(const Value* const*, std::size_t, ValueKind, Value**)>;
using ReleaseEnv = Slot<92, void(Env*)>;
using ReleaseStatus = Slot<93, void(Status*)>;
using ReleaseMemoryInfo = Slot<94, void(MemoryInfo*)>;
using ReleaseSession = Slot<95, void(Session*)>;
using ReleaseValue = Slot<96, void(Value*)>;
using ReleaseRunOptions = Slot<97, void(RunOptions*)>;
using ReleaseTypeInfo = Slot<98, void(TypeInfo*)>;
using ReleaseTensorTypeAndShapeInfo = Slot<99, void(TensorInfo*)>;
using ReleaseSessionOptions = Slot<100, void(SessionOptions*)>;
using CastTypeInfoToSequenceTypeInfo = Slot<104, Status*(const TypeInfo*, const SequenceInfo**)>;
using GetSequenceElementType = Slot<107, Status*(const SequenceInfo*, TypeInfo**)>;
using SessionGetModelMetadata = Slot<111, Status*(const Session*, ModelMetadata**)>;
using ModelMetadataGetProducerName = Slot<112, Status*(const ModelMetadata*, Allocator*, char**)>;
using ModelMetadataGetGraphName = Slot<113, Status*(const ModelMetadata*, Allocator*, char**)>;
using ModelMetadataGetDomain = Slot<114, Status*(const ModelMetadata*, Allocator*, char**)>;
using ModelMetadataGetDescription = Slot<115, Status*(const ModelMetadata*, Allocator*, char**)>;
using ModelMetadataLookupCustomMetadataMap = Slot<116, Status*(const ModelMetadata*, Allocator*, const char*, char**)>;
using ModelMetadataGetVersion = Slot<117, Status*(const ModelMetadata*, std::int64_t*)>;
using ReleaseModelMetadata = Slot<118, void(ModelMetadata*)>;
using ModelMetadataGetCustomMetadataMapKeys =
    Slot<123, Status*(const ModelMetadata*, Allocator*, char***, std::int64_t*)>;
using GetAvailableProviders = Slot<125, Status*(char***, int*)>;
using ReleaseAvailableProviders = Slot<126, Status*(char**, int)>;
using AddSessionConfigEntry = Slot<130, Status*(SessionOptions*, const char*, const char*)>;
using CreateAllocator = Slot<131, Status*(const Session*, const MemoryInfo*, Allocator**)>;
using ReleaseAllocator = Slot<132, void(Allocator*)>;
using RegisterAllocator = Slot<176, Status*(Env*, Allocator*)>;
using SetCustomCreateThread = Slot<196, Status*(SessionOptions*, void* (*)(void*, void (*)(void*), void*))>;
using SetCustomThreadOptions = Slot<197, Status*(SessionOptions*, void*)>;
using SetCustomJoinThread = Slot<198, Status*(SessionOptions*, void (*)(void*))>;
using AddInitializer = Slot<150, Status*(SessionOptions*, const char*, const Value*)>;
using ModelMetadataGetGraphDescription = Slot<158, Status*(const ModelMetadata*, Allocator*, char**)>;
using CreatePackedWeights = Slot<166, Status*(PackedWeights**)>;
using ReleasePackedWeights = Slot<167, void(PackedWeights*)>;
using CreateSessionWithPackedWeights =
    Slot<168, Status*(const Env*, const char*, const SessionOptions*, PackedWeights*, Session**)>;
using AppendTensorRtProvider = Slot<170, Status*(SessionOptions*, const TensorRtOptions*)>;
using CreateTensorRtProviderOptions = Slot<171, Status*(TensorRtOptions**)>;
using UpdateTensorRtProviderOptions =
    Slot<172, Status*(TensorRtOptions*, const char* const*, const char* const*, std::size_t)>;
using ReleaseTensorRtProviderOptions = Slot<174, void(TensorRtOptions*)>;
using AppendCudaProvider = Slot<204, Status*(SessionOptions*, const CudaOptions*)>;
using CreateCudaProviderOptions = Slot<205, Status*(CudaOptions**)>;
using UpdateCudaProviderOptions = Slot<206, Status*(CudaOptions*, const char* const*, const char* const*, std::size_t)>;
using ReleaseCudaProviderOptions = Slot<208, void(CudaOptions*)>;
using GetResizedStringTensorElementBuffer = Slot<252, Status*(Value*, std::size_t, std::size_t, char**)>;
using GetBuildInfoString = Slot<254, const char*()>;

// Typed access to a table of the library: api.call<ort::Run>(session, ...).
class Api {
 public:
  Api() = default;
  explicit Api(const void* table) : table_(static_cast<const Entry*>(table)) {}
  explicit operator bool() const { return table_ != nullptr; }
  bool operator==(const Api&) const = default;

  template <class S, class... Arguments>
  auto call(Arguments... arguments) const {
    return reinterpret_cast<typename S::Function>(table_[S::index])(arguments...);
  }

 private:
  using Entry = void (*)();
  const Entry* table_ = nullptr;
};

}  // namespace headrace::ort
