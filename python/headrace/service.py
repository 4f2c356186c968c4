"""What Headrace answers about itself and its models, whatever the protocol. gRPC and HTTP translate, no more.

Methods raise `errors.HeadraceError`. `live`, `ready`, `health`, `draining` and `watching` may be used on any thread,
the rest on loop 0.
"""

import contextlib
import dataclasses
import json
import threading
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TypedDict

from headrace import model_config
from headrace.config import Config
from headrace.errors import InvalidArgument, NotFound, PermissionDenied, Unavailable, Unimplemented
from headrace.log_settings import LogSettings
from headrace.providers import device_of
from headrace.router import ModelVersion, Router, State
from headrace.tracing import Tracer

if TYPE_CHECKING:
    from headrace.engine import BatchStats, DurationStats, Engine, Model, ModelStats, ResponseStats
    from headrace.repository import Repository
    from headrace.sessions import TensorInfo

__all__ = [
    "EXTENSIONS",
    "HEALTH_SERVICES",
    "IndexRow",
    "ModelDescription",
    "Parameters",
    "ServerDescription",
    "Service",
    "Statistics",
]

Parameters = Mapping[str, bool | int | str | bytes | None]  # of a load or unload request
# Of the protocol's extensions, those that always work, in Triton's order.
EXTENSIONS = (
    "classification",
    "model_repository",
    "model_repository(unload_dependents)",
    "schedule_policy",
    "model_configuration",
    "binary_tensor_data",
    "parameters",
    "statistics",
    "trace",
    "logging",
)
# What grpc.health.v1 knows: the server as a whole, and the one service that it is there for.
HEALTH_SERVICES = ("", "inference.GRPCInferenceService")
_FILE = "file:"  # of a load parameter's name: a file of the model


@dataclasses.dataclass(frozen=True)
class ServerDescription:
    """The server's metadata. `extensions`: those of the protocol that work."""

    name: str
    version: str
    extensions: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class ModelDescription:
    """A model's metadata. Shapes are the model's own, batch dimension included; -1 is any size. `properties` are texts
    for people and tools: how it is batched, and what its file says of itself."""

    name: str
    versions: list[str]
    platform: str
    inputs: "list[TensorInfo]"
    outputs: "list[TensorInfo]"
    properties: dict[str, str] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class IndexRow:
    """One version in the repository index. `version` is "" for a model that was never loaded; `state` is READY,
    UNAVAILABLE, LOADING or UNLOADING; `reason` says why, and of a READY one why its last load failed."""

    name: str
    version: str
    state: str
    reason: str


class Statistics(TypedDict):
    """Of one model version, with the protocol's names: counts, and sums of nanoseconds, since it was loaded. Fit for
    JSON as it is, and for a `ModelStatistics` message."""

    name: str
    version: str
    last_inference: int  # milliseconds since the epoch; 0: never
    inference_count: int  # rows
    execution_count: int  # runs of the runtime
    inference_stats: "dict[str, DurationStats]"  # success, fail, queue, compute_*, cache_hit, cache_miss
    batch_stats: "list[BatchStats]"
    memory_usage: list[dict[str, Any]]
    response_stats: "dict[str, ResponseStats]"  # by the number of the response: of models that answer more than once


class Service:
    """The answers of one server."""

    def __init__(
        self,
        engine: "Engine",
        router: Router,
        config: Config,
        version: str,
        *,
        repository: "Repository",
        tracer: Tracer[Any],
        log_settings: LogSettings,
    ) -> None:
        self._engine = engine
        self._router = router
        self._config = config
        self._repository = repository
        self._tracer = tracer
        self._log = log_settings
        self.version = version
        self._started = False
        self._draining = False
        self._watchers: list[Callable[[], None]] = []
        self._watchers_lock = threading.Lock()
        router.on_change = self._changed

    # --- Health

    @property
    def started(self) -> bool:
        """Every model was loaded or has failed."""
        return self._started

    @started.setter
    def started(self, value: bool) -> None:
        self._started = value
        self._changed()

    @property
    def draining(self) -> bool:
        """A signal came: not ready any more, though serving on."""
        return self._draining

    @draining.setter
    def draining(self, value: bool) -> None:
        self._draining = value
        self._changed()

    @contextlib.contextmanager
    def watching(self, note: Callable[[], None]) -> Iterator[None]:
        """Calls `note`, on any thread, whenever `ready` or `health` may have changed."""
        with self._watchers_lock:
            self._watchers.append(note)
        try:
            yield
        finally:
            with self._watchers_lock:
                self._watchers.remove(note)

    def _changed(self) -> None:
        with self._watchers_lock:
            watchers = list(self._watchers)
        for note in watchers:
            note()

    def close(self) -> None:
        """Hears of no more changes: the router, which it holds, lets go of it."""
        self._router.on_change = None

    @property
    def live(self) -> bool:
        """The process answers."""
        return True

    @property
    def ready(self) -> bool:
        """Requests are welcome. With --strict-readiness only if every model that is wanted is READY."""
        if not self.started or self.draining:
            return False
        return not self._config.strict_readiness or all(
            v.state is State.READY for v in self._router.versions if v.wanted
        )

    def health(self, service: str) -> bool:
        """grpc.health.v1: whether `service` is SERVING. NotFound for one that is not known."""
        if service not in HEALTH_SERVICES:
            raise NotFound(f"service '{service}' is not known; there is '{HEALTH_SERVICES[1]}' and '' for the server")
        return self.ready

    # --- Metadata

    def server_metadata(self) -> ServerDescription:
        """Name, version, and the extensions of the protocol that work."""
        extensions = list(EXTENSIONS)
        if self._config.allow_client_shm:
            extensions.insert(extensions.index("model_configuration") + 1, "system_shared_memory")
        return ServerDescription("headrace", self.version, tuple(extensions))

    def model_ready(self, name: str, version: str) -> bool:
        """False while it loads, during a drain, after an unload, and for a model that is not known (as Triton answers).
        A model that cannot be served raises Unavailable with the reason."""
        try:
            found = self._router.find(name, version)
        except NotFound:
            return False
        if found.state is State.UNAVAILABLE and found.wanted:
            raise Unavailable(f"model '{name}' is not available: {found.reason}")
        return found.state is State.READY and not self.draining

    def model_metadata(self, name: str, version: str) -> ModelDescription:
        """Signature and served versions. NotFound, or Unavailable with the reason."""
        found, model, _ = self._router.ready(name, version)
        versions = [v.version_text for v in self._router.named(name) if v.state is State.READY]
        properties = {
            "backend": model.backend,
            "max_batch_size": str(model.max_batch_size),
            "batching": model.batching_reason,
            "threads": model_config.threads_text(model),
            "device": device_of(model.provider) + (f" ({model.provider_note})" if model.provider_note else ""),
            **{f"model.{key}": value for key, value in sorted(model.metadata.items())},
        }
        platform = model_config.platform_of(model.backend)
        return ModelDescription(found.name, versions, platform, model.inputs, model.outputs, properties)

    def model_config(self, name: str, version: str) -> Any:
        """The whole inference.ModelConfig message. NotFound, or Unavailable with the reason."""
        found, model, settings = self._router.ready(name, version)
        message = model_config.complete(settings, model)
        message.parameters[model_config.SCHEDULE].string_value = json.dumps(self._schedule(found, model))
        return message

    def model_schedule(self, name: str, version: str) -> dict[str, Any]:
        """What the scheduler has learnt of the model, the policy in force, and why its last batches were closed.
        NotFound, or Unavailable with the reason."""
        found, model, _ = self._router.ready(name, version)
        return self._schedule(found, model)

    def _schedule(self, version: ModelVersion, model: "Model") -> dict[str, Any]:
        threads = {"reason": model.threads_reason, "trials": model.thread_trials}
        return {
            "name": version.name,
            "version": version.version_text,
            **self._engine.schedule(model),
            "threads": threads,
        }

    def model_statistics(self, name: str, version: str) -> list[Statistics]:
        """Counters of the model's versions (of one, if `version` is given; of every model, if `name` is "")."""
        chosen: list[ModelVersion]
        if name and version:
            chosen = [self._router.ready(name, version)[0]]
        else:
            chosen = self._router.named(name) if name else list(self._router.versions)
        wanted = {(v.name, v.version) for v in chosen if v.state is State.READY}
        # A model that is being replaced is there twice: the newest of a version is the one that serves.
        newest = {(s["name"], s["version"]): s for s in self._engine.snapshot()["models"]}
        return [_statistics(newest[key]) for key in sorted(newest) if key in wanted]

    # --- The repository

    async def repository_index(self, *, ready: bool = False, repository: str = "") -> list[IndexRow]:
        """Every version, served or not, and every other model of the folder; with `ready` only the READY ones.
        Unimplemented for the name of a `repository`: there is one."""
        _refuse_repository(repository)
        rows = await self._repository.index()
        asleep = {(s["name"], s["version"]) for s in self._engine.snapshot()["models"] if s["asleep"]}
        return [
            IndexRow(row.name, row.version_text, row.state.value, row.reason or _residency(row, asleep))
            for row in rows
            if not ready or row.state is State.READY
        ]

    async def load_model(
        self,
        name: str,
        parameters: Parameters = MappingProxyType({}),
        *,
        repository: str = "",
    ) -> None:
        """Loads a model, or loads it again: what serves goes on until its successor is there.

        Parameters: `config`, a JSON model configuration in place of config.pbtxt; `file:<version>/<name>`, the bytes of
        a file, with which the model's folder is not looked at (needs `config`, and --allow-model-upload). Unavailable:
        the mode is not explicit. NotFound: no such model. InvalidArgument: why it could not be loaded.
        PermissionDenied, ResourceExhausted: of files."""
        self._require_control("loaded", name, repository)
        config, files = None, dict[str, bytes]()
        for key, value in parameters.items():
            if key == "config":
                if not isinstance(value, str):
                    raise InvalidArgument("load parameter 'config' must be a string of JSON")
                config = value
            elif key.startswith(_FILE):
                if not isinstance(value, bytes):
                    raise InvalidArgument(f"load parameter '{key}' must be bytes")
                files[key.removeprefix(_FILE)] = value
            else:
                raise InvalidArgument(f"there is no load parameter '{key}'; there are config and file:<version>/<name>")
        if files and not self._config.allow_model_upload:
            raise PermissionDenied("files of models are not taken: start the server with --allow-model-upload")
        if files and config is None:
            raise InvalidArgument("load parameter 'config' must be there if files of the model are")
        await self._repository.load(name, config, files)

    async def unload_model(
        self,
        name: str,
        parameters: Parameters = MappingProxyType({}),
        *,
        repository: str = "",
    ) -> None:
        """Unloads all versions behind their last request and gives their memory back. No effect on a model that is not
        loaded. The parameter `unload_dependents` is taken: no model here depends on another. Errors as load_model."""
        self._require_control("unloaded", name, repository)
        for key, value in parameters.items():
            if key != "unload_dependents":
                raise InvalidArgument(f"there is no unload parameter '{key}'; there is unload_dependents")
            if not isinstance(value, bool):
                raise InvalidArgument("unload parameter 'unload_dependents' must be a bool")
        await self._repository.unload(name)

    def _require_control(self, what: str, name: str, repository: str) -> None:
        _refuse_repository(repository)
        if not name:
            raise InvalidArgument(f"the request names no model to be {what}")
        if self._config.model_control_mode != "explicit":
            raise Unavailable(
                f"model '{name}' cannot be {what} on request: the server serves what its repository held at the start; "
                "start it with --model-control-mode explicit"
            )

    # --- Settings

    def trace_settings(self, model: str = "") -> dict[str, list[str]]:
        """Of a model, or of all that have none of their own. NotFound for an unknown model."""
        if model:
            self._router.named(model)
        return self._tracer.values(model)

    def update_trace_settings(self, model: str, changes: Mapping[str, Sequence[str] | None]) -> dict[str, list[str]]:
        """Sets these, all or none, and returns all. None or an empty list: follow the setting for all models, or that
        of the start. NotFound, InvalidArgument, Unimplemented: what cannot be set."""
        if model:
            self._router.named(model)
        return self._tracer.update(model, changes)

    def log_settings(self) -> dict[str, bool | int | str]:
        """By the protocol's names."""
        return self._log.values()

    def update_log_settings(self, changes: Mapping[str, bool | int | str | None]) -> dict[str, bool | int | str]:
        """Sets these (None: as at the start), all or none, and returns all. InvalidArgument: what cannot be set."""
        return self._log.update(changes)

    # --- Shared memory of clients

    def register_shared_memory(self, name: str, key: str, offset: int, byte_size: int) -> None:
        """Makes a region of POSIX shared memory known. As Engine.register_shared_memory."""
        self._engine.register_shared_memory(name, key, offset, byte_size)

    def unregister_shared_memory(self, name: str) -> None:
        """Forgets the region `name`, or all ("")."""
        self._require_shared_memory()
        self._engine.unregister_shared_memory(name)

    def shared_memory(self, name: str) -> list[tuple[str, str, int, int]]:
        """(name, key, offset, byte_size) of the region `name`, or of all (""). NotFound."""
        self._require_shared_memory()
        regions = [region for region in self._engine.shared_memory() if name in ("", region[0])]
        if name and not regions:
            raise NotFound(f"shared memory region '{name}' is not registered")
        return regions

    def register_cuda_shared_memory(self, name: str) -> None:
        """Unavailable: this server uses no CUDA device."""
        raise Unavailable(
            f"CUDA shared memory region '{name}' cannot be registered: CUDA is not there, this server runs models on "
            "the CPU; register system shared memory in its place (the server needs --allow-client-shm for that)"
        )

    def cuda_shared_memory(self, name: str) -> None:
        """There is none: NotFound for a `name`."""
        if name:
            raise NotFound(f"CUDA shared memory region '{name}' is not registered")

    def _require_shared_memory(self) -> None:
        if not self._config.allow_client_shm:
            raise PermissionDenied("shared memory of clients is not used: start the server with --allow-client-shm")


def _refuse_repository(repository: str) -> None:
    if repository:
        raise Unimplemented("repository_name must be empty: the server has one repository (--model-repository)")


def _residency(row: ModelVersion, asleep: Container[tuple[str, int | None]]) -> str:
    """What the index says of a version that is READY and not in memory."""
    if row.state is State.READY and (row.name, row.version) in asleep:
        return "asleep: the next request loads it (--model-memory-budget)"
    return ""


def _statistics(stats: "ModelStats") -> Statistics:
    none: DurationStats = {"count": 0, "ns": 0}
    # To a caller these are all failures; the core tells them apart.
    failures = (stats["fail"], stats["cancel"], stats["reject"])
    return {
        "name": stats["name"],
        "version": str(stats["version"]),
        "last_inference": stats["last_inference_ms"],
        "inference_count": stats["inference_count"],
        "execution_count": stats["execution_count"],
        "inference_stats": {
            "success": stats["success"],
            "fail": {"count": sum(f["count"] for f in failures), "ns": sum(f["ns"] for f in failures)},
            "queue": stats["queue"],
            "compute_input": stats["compute_input"],
            "compute_infer": stats["compute_infer"],
            "compute_output": stats["compute_output"],
            "cache_hit": none,
            "cache_miss": none,
        },
        "batch_stats": stats["batch_stats"],
        "memory_usage": [{"type": "CPU", "id": 0, "byte_size": 0 if stats["asleep"] else stats["footprint_bytes"]}],
        "response_stats": {str(number): row for number, row in enumerate(stats["response_stats"])},
    }
