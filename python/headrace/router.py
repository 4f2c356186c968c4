"""Which model a name and a version mean. Builds the rows that the core's catalog is made of, and answers the same
question for calls that Python handles.

Pure but for `Router.set`, which hands the rows to the engine.
"""

import dataclasses
import enum
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from headrace.errors import NotFound, Unavailable

if TYPE_CHECKING:
    from headrace.engine import Model
    from headrace.model_config import ModelSettings

__all__ = ["ModelVersion", "Router", "State", "routes"]


class State(enum.Enum):
    """What the repository index calls a version's state."""

    LOADING = "LOADING"
    READY = "READY"
    UNLOADING = "UNLOADING"
    UNAVAILABLE = "UNAVAILABLE"


@dataclasses.dataclass(frozen=True)
class ModelVersion:
    """One version of a model, loaded or not. `version` None: the folder has none that could be named."""

    name: str
    version: int | None
    state: State
    reason: str = ""  # why it is not READY; of one that is, why its last load failed
    model: "Model | None" = None  # set when READY
    settings: "ModelSettings | None" = None  # set when READY
    wanted: bool = True  # False: somebody asked for it to be unloaded

    @property
    def version_text(self) -> str:
        """As requests write it; "" where there is none."""
        return "" if self.version is None else str(self.version)


Row = tuple[str, str, "Model | str"]


def _default(versions: list[ModelVersion]) -> ModelVersion:
    """What a request without a version gets: the highest that is READY, else the highest there is."""
    return max(versions, key=lambda v: (v.state is State.READY, -1 if v.version is None else v.version))


def _by_name(versions: Iterable[ModelVersion]) -> dict[str, list[ModelVersion]]:
    grouped: dict[str, list[ModelVersion]] = {}
    for version in versions:
        grouped.setdefault(version.name, []).append(version)
    return grouped


def routes(versions: Iterable[ModelVersion]) -> list[Row]:
    """(name, version text, model or the reason why there is none): each version under its number, and the default
    under ""."""
    rows: list[Row] = []
    for name, group in sorted(_by_name(versions).items()):
        numbered = sorted((v for v in group if v.version is not None), key=lambda v: v.version or 0)
        for text, version in [("", _default(group)), *((v.version_text, v) for v in numbered)]:
            rows.append((name, text, version.reason if version.model is None else version.model))
    return rows


class Router:
    """The versions of now. Replaced as a whole, so any thread may read it."""

    def __init__(self, publish: Callable[[list[Row]], None]) -> None:
        """`publish` takes the rows after each change: `Engine.publish`."""
        self._publish = publish
        self._versions: tuple[ModelVersion, ...] = ()
        self.on_change: Callable[[], None] | None = None  # called after each change

    def set(self, versions: Iterable[ModelVersion]) -> None:
        """Makes these the versions that requests find."""
        self._versions = tuple(sorted(versions, key=lambda v: (v.name, v.version or 0)))
        self._publish(routes(self._versions))
        if self.on_change is not None:
            self.on_change()

    @property
    def versions(self) -> tuple[ModelVersion, ...]:
        """All of them, by name and number."""
        return self._versions

    def named(self, name: str) -> list[ModelVersion]:
        """All versions of a model, ascending. NotFound for an unknown name."""
        found = [version for version in self._versions if version.name == name]
        if not found:
            raise NotFound(f"model '{name}' is not in the model repository")
        return found

    def find(self, name: str, version: str) -> ModelVersion:
        """The version that `version` ("" is the default) means, READY or not. NotFound lists what there is."""
        group = self.named(name)
        if version == "":
            return _default(group)
        for candidate in group:
            if candidate.version_text == version:
                return candidate
        served = ", ".join(v.version_text for v in group if v.state is State.READY) or "none"
        raise NotFound(f"model '{name}' has no version '{version}'; it serves: {served}")

    def ready(self, name: str, version: str) -> "tuple[ModelVersion, Model, ModelSettings]":
        """As find, but READY: else Unavailable with the reason."""
        found = self.find(name, version)
        if found.model is None or found.settings is None:
            raise Unavailable(f"model '{name}' is not available: {found.reason}")
        return found, found.model, found.settings
