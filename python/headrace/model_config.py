"""A model's config.pbtxt: what it asks for, what of it can be done, and the rest of it completed from the model.

Field names and meanings are Triton's. Every field is obeyed, named in a warning because it has no effect here, or
refused with a sentence: none is ignored in silence. Pure: text in, settings out.

Batching, in this order: `max_batch_size` written out is obeyed (0: the model's own shapes; over 0 without
`dynamic_batching {}`: each request runs alone); otherwise a probe at load decides whether the model can be batched, and
then dynamic batching is on. The model's `batching_reason` says which rule applied.
"""

import dataclasses
import hashlib
import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from google.protobuf import json_format, text_format

from headrace import _proto, plans, providers
from headrace.batching_config import OBJECTIVE, WEIGHT, read_batching
from headrace.config import Config
from headrace.config_fields import Treatment, row_of
from headrace.datatypes import data_type_of, datatype
from headrace.errors import InvalidArgument, Unimplemented

if TYPE_CHECKING:
    from headrace.engine import BatchingOptions, Model
    from headrace.sessions import DeviceOptions, ProviderOptions, SessionOptions, TensorInfo

__all__ = [
    "SCHEDULE",
    "ModelSettings",
    "check_signature",
    "complete",
    "platform_of",
    "read",
    "session_of",
    "threads_text",
]

_PLATFORMS = {"onnxruntime_onnx": "onnxruntime", "tensorrt_plan": "tensorrt"}
# With the file that a version's folder holds.
_BACKENDS = {"onnxruntime": "model.onnx", "echo": "model.echo", "tensorrt": "model.plan"}
_GRAPH_LEVELS = {-1: 1, 1: 2, 2: 0}  # config.pbtxt -> ONNX Runtime: basic, extended, none; anything else is all (99)
_PASSED_ON = ("session.", "optimization.", "ep.")  # parameters that are the runtime's own session configuration

SCHEDULE = "headrace"  # the parameter in which the server shows what its scheduler does; not read
_MOST_NESTED = 32  # levels of a JSON configuration
_READ_ELSEWHERE = {OBJECTIVE, WEIGHT, SCHEDULE}
_NO_EFFECT = "it has no effect here"


@dataclasses.dataclass(frozen=True)
class ModelSettings:
    """What the repository needs to load a model, and what the file said."""

    name: str
    backend: str
    filename: str
    session: "SessionOptions"
    batching: "BatchingOptions"
    message: Any  # inference.ModelConfig as written; empty when there is no file
    max_batch_size: int | None  # None: the file does not say
    warnings: tuple[str, ...]

    def versions(self, available: Iterable[int]) -> tuple[list[int], list[int]]:
        """The versions to serve, ascending, and those that the version policy names but the folder lacks."""
        found = sorted(available)
        policy = self.message.version_policy
        choice = policy.WhichOneof("policy_choice")
        if choice == "all":
            return found, []
        if choice == "specific":
            asked = sorted(set(policy.specific.versions))
            return [v for v in asked if v in found], [v for v in asked if v not in found]
        return found[-max(1, policy.latest.num_versions) :], []


class _Reader:
    """One file being read: gathers warnings, and knows how to refuse."""

    def __init__(self, name: str, config: Config) -> None:
        self.name = name
        self.config = config
        self.warnings: list[str] = []

    def wrong(self, what: str) -> InvalidArgument:
        return InvalidArgument(f"config.pbtxt of model '{self.name}': {what}.")

    def cannot(self, field: str, why: str) -> Unimplemented:
        return Unimplemented(
            f"config.pbtxt of model '{self.name}': {field}: {why}; remove the field to serve the model."
        )

    def warn(self, field: str, why: str) -> None:
        self.warnings.append(f"config.pbtxt of model '{self.name}': {field}: {why}.")

    def walk(self, message: Any, path: str = "", where: str = "") -> None:
        """Does what the table says of each field that is set: nothing, a warning or a refusal."""
        for field, value in message.ListFields():
            here, named = f"{path}{field.name}", f"{where}{field.name}"
            row = row_of(here)
            if row is None:
                raise self.cannot(named, "this server does not know the field")
            if row.treatment is Treatment.REFUSED:
                raise self.cannot(named, row.text)
            if row.treatment is Treatment.WARNED:
                self.warn(named, row.text)
            elif field.message_type is not None and not field.message_type.GetOptions().map_entry:
                for part in value if hasattr(value, "add") else (value,):
                    label = f"{named} '{part.name}'" if here in ("input", "output") else named
                    self.walk(part, f"{here}.", f"{label}.")


def read(name: str, text: str | None, config: Config, *, is_json: bool = False) -> ModelSettings:
    """The settings of the model in the folder `name`. `text`: its config.pbtxt, None when it has none; or, from a load
    request, the same as JSON.

    InvalidArgument says what is wrong with the file, Unimplemented what of it cannot be served.
    """
    reader = _Reader(name, config)
    message = _proto.ModelConfig()
    states_size = False
    if text is not None and is_json:
        states_size = _parse_json(reader, text, message)
    elif text is not None:
        try:
            text_format.Parse(text, message, descriptor_pool=_proto.POOL)
        except text_format.ParseError as error:
            raise reader.wrong(f"cannot be read: line {error}") from None
        states_size = _states(text, "max_batch_size")
    if message.name and message.name != name:
        raise reader.wrong(f"its name is '{message.name}', but the folder's is '{name}': rename one, or leave name out")
    backend = _backend(reader, message)
    filename = message.default_model_filename or _BACKENDS[backend]
    if backend == plans.BACKEND:
        plans.check(reader, message)
        states_size = True  # an engine cannot be asked whether it may be batched
    if "/" in filename or filename in {".", ".."}:
        raise reader.wrong(f"default_model_filename '{filename}' must be the name of a file in the version's folder")
    _check_tensors(reader, message)
    reader.walk(message)
    stated = message.max_batch_size if states_size else None
    batching = read_batching(reader, message, stated)
    return ModelSettings(
        name=name,
        backend=backend,
        filename=filename,
        session=_session(reader, message, backend),
        batching=batching,
        message=message,
        max_batch_size=stated,
        warnings=tuple(reader.warnings),
    )


def _parse_json(reader: _Reader, text: str, message: Any) -> bool:
    """Reads JSON into `message`; True when it writes max_batch_size, which proto3 would not tell of a 0."""
    try:
        json_format.Parse(text, message, descriptor_pool=_proto.POOL, max_recursion_depth=_MOST_NESTED)
        written = json.loads(text)
    except (json_format.ParseError, ValueError, RecursionError) as error:
        raise reader.wrong(f"the JSON cannot be read: {error}") from None
    if not isinstance(written, dict):
        raise reader.wrong("the JSON cannot be read: it must be an object")
    return not {"max_batch_size", "maxBatchSize"}.isdisjoint(written)


_TOKEN = re.compile(r"""#[^\n]*|"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*'|[{}<>]|\w+""")


def _states(text: str, field: str) -> bool:
    """Whether `text` (valid text format) sets `field` of the outermost message: proto3 drops a 0 that is written."""
    depth = 0
    for token in _TOKEN.findall(text):
        if token in "{<":
            depth += 1
        elif token in "}>":
            depth -= 1
        elif depth == 0 and token == field:
            return True
    return False


def _backend(reader: _Reader, message: Any) -> str:
    platform, backend = message.platform, message.backend
    if platform and platform not in _PLATFORMS:
        raise reader.cannot(f"platform '{platform}'", f"this server runs {', '.join(_PLATFORMS)}")
    if backend and backend not in _BACKENDS:
        raise reader.cannot(f"backend '{backend}'", f"this server runs {', '.join(_BACKENDS)}")
    if platform and backend and _PLATFORMS[platform] != backend:
        raise reader.wrong(f"platform '{platform}' and backend '{backend}' do not fit together: leave one out")
    return str(backend or _PLATFORMS.get(platform, "onnxruntime"))


def _check_tensors(reader: _Reader, message: Any) -> None:
    for kind, tensors in (("input", message.input), ("output", message.output)):
        seen: set[str] = set()
        for tensor in tensors:
            where = f"{kind} '{tensor.name}'"
            if not tensor.name:
                raise reader.wrong(f"an {kind} has no name")
            if tensor.name in seen:
                raise reader.wrong(f"{where} stands there twice")
            seen.add(tensor.name)
            if any(dim < -1 or dim == 0 for dim in tensor.dims):
                raise reader.wrong(f"{where} has dims {list(tensor.dims)}: each is a size over 0, or -1 for any")


def _several(message: Any) -> bool:
    """Whether the version policy may serve more than one version at a time."""
    policy = message.version_policy
    return bool(
        policy.WhichOneof("policy_choice") == "all"
        or policy.latest.num_versions > 1
        or len(set(policy.specific.versions)) > 1
    )


def _session(reader: _Reader, message: Any, backend: str) -> "SessionOptions":
    config = reader.config
    values = {key: value.string_value for key, value in message.parameters.items()}

    def number(key: str, low: int, high: int) -> int | None:
        text = values.pop(key, None)
        if text is None:
            return None
        if not re.fullmatch(r"\d{1,6}", text.strip()) or not low <= int(text) <= high:
            raise reader.wrong(f"parameters.{key} is '{text}': it must be {low} to {high}")
        return int(text)

    cores = config.host_limits.cores
    intra = number("intra_op_thread_count", 0, 1024) or config.compute_threads
    parallel = number("execution_mode", 0, 1) == 1
    inter = number("inter_op_thread_count", 0, 1024) or 1
    for key, asked in (("intra_op_thread_count", intra), ("inter_op_thread_count", inter)):
        if asked > cores:
            reader.warn(f"parameters.{key}", f"{asked} is more than the cores: {cores} used")
    intra, inter = min(intra, cores), min(inter, cores)
    if parallel:
        intra = intra or 1
        if intra * inter > cores:
            intra = max(1, cores // inter)
            reader.warn("parameters.intra_op_thread_count", f"{intra} used beside {inter} inter-op threads")
    if backend == plans.BACKEND:
        found = [providers.Device((providers.plan_provider(message, config, reader.wrong, reader.warn),), 0)]
    else:
        found = providers.devices(message, config, reader.wrong, reader.warn)
    session: SessionOptions = {
        "intra_op_threads": intra,
        "inter_op_threads": inter,
        "parallel_execution": parallel,
        "graph_optimization_level": _GRAPH_LEVELS.get(message.optimization.graph.level, 99),
        "memory_arena": number("enable_mem_arena", 0, 1) != 0,
        "memory_pattern": number("enable_mem_pattern", 0, 1) != 0,
        "config_entries": {key: values.pop(key) for key in sorted(values) if key.startswith(_PASSED_ON)},
        "providers": _provider_options(found[0].chain),
        "share_weights": number("share_weights", 0, 1) == 1 if "share_weights" in values else _several(message),
        "strict_providers": config.strict_device or number("strict_device", 0, 1) == 1,
    }
    if len(found) > 1:
        session["devices"] = [
            {"providers": _provider_options(device.chain), "max_lanes": device.lanes} for device in found
        ]
    if backend == plans.BACKEND:
        session["stated"] = plans.stated(message)
    for key in sorted(values.keys() - _READ_ELSEWHERE):
        reader.warn(f"parameters.{key}", _NO_EFFECT)
    return session


def _provider_options(chain: Iterable[providers.Provider]) -> "list[ProviderOptions]":
    return [{"name": each.name, "options": each.options, "asked_for": each.asked_for} for each in chain]


def session_of(settings: ModelSettings, version: int, file: Path, config: Config) -> "SessionOptions":
    """The session's options for one version's file: what the runtime keeps of it lies apart from any other's."""
    session = settings.session
    if not config.cache_dir or not (session.get("providers") or session.get("devices")):
        return session
    try:
        stat = file.stat()
    except OSError:
        return session  # the load says what is wrong with the file
    mark = hashlib.sha256(f"{file} {stat.st_size} {stat.st_mtime_ns}".encode()).hexdigest()[:16]
    key = f"{settings.name}-{version}-{mark}"

    def kept(options: "Iterable[ProviderOptions]") -> "list[ProviderOptions]":
        return [{**each, "options": providers.kept_apart(each["options"], config, key)} for each in options]

    own: SessionOptions = {**session, "providers": kept(session["providers"])}
    if "devices" in session:
        places: list[DeviceOptions] = [{**each, "providers": kept(each["providers"])} for each in session["devices"]]
        own["devices"] = places
    return own


# --- Against the model -----------------------------------------------------------------------------------------------


def _fits(written: Sequence[int], model: Sequence[int]) -> bool:
    """Any size may be narrowed by the file to one; a size of the model may not be changed or widened."""
    return len(written) == len(model) and all(m in (-1, w) for w, m in zip(written, model, strict=True))


def check_signature(settings: ModelSettings, model: "Model") -> list[str]:
    """Compares what the file says of inputs and outputs with the loaded model, and returns warnings.

    InvalidArgument names each difference.
    """
    faults: list[str] = []
    warnings: list[str] = []
    for kind, written, tensors in (
        ("input", settings.message.input, model.inputs),
        ("output", settings.message.output, model.outputs),
    ):
        by_name = {tensor["name"]: tensor for tensor in tensors}
        for tensor in written:
            info = by_name.get(tensor.name)
            if info is None:
                faults.append(f"there is no {kind} '{tensor.name}'; the model has {', '.join(by_name) or 'none'}")
                continue
            faults += _differences(kind, tensor, info, settings, model.max_batch_size)
            if list(tensor.dims) not in ([], info["shape"], info["shape"][1:]):
                warnings.append(
                    f"config.pbtxt of model '{settings.name}': {kind} '{tensor.name}' has dims {list(tensor.dims)}, "
                    f"but requests may have any size that the model takes: {info['shape']}."
                )
    if settings.max_batch_size:
        for tensor in (*model.inputs, *model.outputs):
            if not tensor["shape"] or tensor["shape"][0] != -1:
                faults.append(
                    f"max_batch_size is {settings.max_batch_size}, but '{tensor['name']}' has the fixed shape "
                    f"{tensor['shape']}: its first dimension must be dynamic, or write max_batch_size: 0"
                )
    if faults:
        raise InvalidArgument(f"config.pbtxt of model '{settings.name}' does not fit the model: {'; '.join(faults)}.")
    return warnings


def _differences(
    kind: str, written: Any, info: "TensorInfo", settings: ModelSettings, max_batch_size: int
) -> Iterable[str]:
    if written.data_type and datatype(written.data_type) != info["datatype"]:
        asked = _proto.DataType(written.data_type).name
        yield f"{kind} '{written.name}' is {asked} in the file and {info['datatype']} in the model"
    if kind == "input" and written.optional and not info["optional"]:
        yield f"input '{written.name}' is optional in the file, but the model has no default for it"
    shape = info["shape"]
    allowed = [shape[1:]] if settings.max_batch_size else [shape]
    if settings.max_batch_size is None and max_batch_size > 0:
        allowed.append(shape[1:])  # the file does not say which of the two it means
    if written.dims and not any(_fits(written.dims, dims) for dims in allowed):
        without = " without the batch dimension" if settings.max_batch_size else ""
        yield f"{kind} '{written.name}' has dims {list(written.dims)}, but {allowed[0]} in the model{without}"


def platform_of(backend: str) -> str:
    """The older word for a backend: "onnxruntime_onnx" for "onnxruntime"."""
    return next((platform for platform, name in _PLATFORMS.items() if name == backend), backend)


def threads_text(model: "Model") -> str:
    """How many threads a run has, on how many lanes, why, and what was measured."""
    text = f"{model.intra_op_threads} thread(s) a run on up to {model.lanes} lane(s): {model.threads_reason}"
    for trial in model.thread_trials:
        text += f"; {trial['threads']} x {trial['lanes']}: {trial['rate_of_one']:.4g} rows/s"
        if trial["batch_size"] > 1:
            text += f", {trial['rate_of_batch']:.4g} in batches of {trial['batch_size']}"
        text += f", {trial['alone_ns'] / 1e6:.2f} ms alone"
    return text


def complete(settings: ModelSettings, model: "Model") -> Any:
    """The whole inference.ModelConfig: what the file says, and the rest from the model."""
    message = _proto.ModelConfig()
    message.CopyFrom(settings.message)
    message.name = settings.name
    message.backend = settings.backend
    message.platform = platform_of(settings.backend)
    message.default_model_filename = settings.filename
    message.max_batch_size = model.max_batch_size
    if message.version_policy.WhichOneof("policy_choice") is None:
        message.version_policy.latest.num_versions = 1
    _complete_tensors(message.input, model.inputs, model.max_batch_size > 0)
    _complete_tensors(message.output, model.outputs, model.max_batch_size > 0)
    for tensor, info in zip(message.input, model.inputs, strict=True):
        tensor.optional = info["optional"]
    if not message.instance_group:
        message.instance_group.add(name=f"{settings.name}_0", count=model.lanes)
    kinds = _proto.ModelInstanceGroup
    for group in message.instance_group:
        if not group.count and len(message.instance_group) == 1 and providers.on_gpu(group):
            group.count = model.lanes
        if len(model.providers) == 1:  # else each group says its own
            group.kind = kinds.KIND_CPU if model.provider == "cpu" else kinds.KIND_GPU
        group.count = max(1, group.count)
    message.parameters["intra_op_thread_count"].string_value = str(model.intra_op_threads)
    message.parameters["headrace.threads"].string_value = threads_text(model)
    if model.dynamic_batching:
        message.dynamic_batching.SetInParent()
    else:
        message.ClearField("dynamic_batching")
    return message


def _complete_tensors(written: Any, tensors: "Sequence[TensorInfo]", batched: bool) -> None:
    """Puts the entries into the model's order, adds the missing ones and fills type and dims."""
    given = {tensor.name: type(tensor).FromString(tensor.SerializeToString()) for tensor in written}
    del written[:]
    for info in tensors:
        tensor = written.add()
        if info["name"] in given:
            tensor.CopyFrom(given[info["name"]])
        tensor.name = info["name"]
        tensor.data_type = data_type_of(info["datatype"])
        dims = info["shape"][1:] if batched else info["shape"]
        if len(tensor.dims) != len(dims):
            tensor.dims[:] = dims
