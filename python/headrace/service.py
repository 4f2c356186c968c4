"""What Headrace answers about itself and its models, whatever the protocol. gRPC and HTTP translate, no more.

Methods raise `errors.HeadraceError`. `live`, `ready` and `draining` may be read on any thread; the rest runs on loop 0.
"""

import dataclasses
from typing import TYPE_CHECKING, Any

from headrace import model_config
from headrace.config import Config
from headrace.errors import NotFound, Unavailable
from headrace.router import ModelVersion, Router, State

if TYPE_CHECKING:
    from headrace.engine import Engine, ModelStats, TensorInfo

__all__ = ["EXTENSIONS", "HEALTH_SERVICES", "ModelDescription", "Service"]

# Of the protocol's extensions, those that work. "model_configuration": ModelConfig; "statistics": ModelStatistics.
EXTENSIONS = ("model_configuration", "statistics")
# What grpc.health.v1 knows: the server as a whole, and the one service that it is there for.
HEALTH_SERVICES = ("", "inference.GRPCInferenceService")


@dataclasses.dataclass(frozen=True)
class ModelDescription:
    """A model's metadata. Shapes are the model's own, batch dimension included; -1 is any size."""

    name: str
    versions: list[str]
    platform: str
    inputs: "list[TensorInfo]"
    outputs: "list[TensorInfo]"


class Service:
    """The answers of one server."""

    def __init__(self, engine: "Engine", router: Router, config: Config, version: str) -> None:
        self._engine = engine
        self._router = router
        self._config = config
        self.version = version
        self.started = False  # every model was loaded or has failed
        self.draining = False  # a signal came: not ready any more, though serving on

    @property
    def live(self) -> bool:
        """The process answers."""
        return True

    @property
    def ready(self) -> bool:
        """Requests are welcome. With --strict-readiness only if every model is READY."""
        if not self.started or self.draining:
            return False
        return not self._config.strict_readiness or all(v.state is State.READY for v in self._router.versions)

    def health(self, service: str) -> bool:
        """grpc.health.v1: whether `service` is SERVING. NotFound for one that is not known."""
        if service not in HEALTH_SERVICES:
            raise NotFound(f"service '{service}' is not known; there is '{HEALTH_SERVICES[1]}' and '' for the server")
        return self.ready

    def model_ready(self, name: str, version: str) -> bool:
        """False while it loads, during a drain, and for a model that is not known (as Triton answers). A model that
        cannot be served raises Unavailable with the reason."""
        try:
            found = self._router.find(name, version)
        except NotFound:
            return False
        if found.state is State.UNAVAILABLE:
            raise Unavailable(f"model '{name}' is not available: {found.reason}")
        return found.state is State.READY and not self.draining

    def model_metadata(self, name: str, version: str) -> ModelDescription:
        """Signature and served versions. NotFound, or Unavailable with the reason."""
        found, model, _ = self._router.ready(name, version)
        versions = [v.version_text for v in self._router.named(name) if v.state is State.READY]
        return ModelDescription(
            found.name, versions, model_config.platform_of(model.backend), model.inputs, model.outputs
        )

    def model_config(self, name: str, version: str) -> Any:
        """The whole inference.ModelConfig message. NotFound, or Unavailable with the reason."""
        _, model, settings = self._router.ready(name, version)
        return model_config.complete(settings, model, self._config.lanes)

    def model_statistics(self, name: str, version: str) -> "list[ModelStats]":
        """Counters of the model's versions (of one, if `version` is given; of every model, if `name` is "")."""
        chosen: list[ModelVersion]
        if name and version:
            chosen = [self._router.ready(name, version)[0]]
        else:
            chosen = self._router.named(name) if name else list(self._router.versions)
        wanted = {(v.name, v.version) for v in chosen if v.state is State.READY}
        statistics = [s for s in self._engine.snapshot()["models"] if (s["name"], s["version"]) in wanted]
        return sorted(statistics, key=lambda s: (s["name"], s["version"]))
