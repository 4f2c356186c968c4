"""The model repository: what lies in the folder (`scan`), what should be served of it (`targets`), what has to be done
(`plan`, pure), and the doing (`Repository`).

Layout: `<repository>/<model>/<version>/model.onnx`, with or without `<model>/config.pbtxt`. Nothing is read from
outside the repository: a link that leads out is refused.
"""

import asyncio
import dataclasses
import logging
import os
import re
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from headrace import model_config
from headrace.config import Config
from headrace.errors import HeadraceError, StartError
from headrace.model_config import ModelSettings
from headrace.router import ModelVersion, Router, State

if TYPE_CHECKING:
    from headrace.engine import Engine, Model

__all__ = ["Action", "Found", "Load", "Repository", "Target", "Unload", "plan", "scan", "targets"]

log = logging.getLogger("headrace.repository")

_MODEL_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+\-]{0,254}")
_VERSION = re.compile(r"0|[1-9][0-9]{0,17}")  # no leading zero; fits 64 bits
_CONFIG = "config.pbtxt"
_MAX_CONFIG_BYTES = 1 << 20


@dataclasses.dataclass(frozen=True)
class Found:
    """One model's folder. `fault`: why it cannot be served as it lies there; "" when it can."""

    name: str
    folder: Path
    versions: Mapping[int, Path] = dataclasses.field(default_factory=dict)
    config_text: str | None = None
    fault: str = ""


@dataclasses.dataclass(frozen=True)
class Target:
    """One version that should be served, or the `fault` for which it cannot be."""

    name: str
    version: int | None
    folder: Path
    file: Path | None = None
    settings: ModelSettings | None = None
    fault: str = ""
    fingerprint: str = ""  # changes when the version must be loaded again

    @property
    def key(self) -> tuple[str, int | None]:
        return self.name, self.version


class _Fault(Exception):
    """Why one model cannot be served as it lies in the folder."""


# --- What is there ---------------------------------------------------------------------------------------------------


def scan(root: Path) -> list[Found]:
    """All models in the folder, by name. StartError when there is no folder, or nothing in it."""
    try:
        entries = sorted(os.scandir(root), key=lambda entry: entry.name)
    except OSError as error:
        raise StartError(
            f"The model repository {root} cannot be read: {error.strerror} (--model-repository)."
        ) from None
    real_root = root.resolve()
    found: list[Found] = []
    for entry in entries:
        if entry.name.startswith(".") or not entry.is_dir():
            log.debug("%s is not a model: hidden, or not a folder", entry.path)
            continue
        folder = Path(entry.path)
        if not _MODEL_NAME.fullmatch(entry.name):
            if _inside(folder, real_root) and any(_VERSION.fullmatch(child.name) for child in _children(folder)):
                rule = "a model's name has letters, digits and _ . + - only"
                found.append(Found(entry.name, folder, fault=f"its name cannot be served: {rule}"))
            continue
        found.append(_look_into(entry.name, folder, real_root))
    if not found:
        raise StartError(f"The model repository {root} has no model in it: put one into {root}/<model>/1/model.onnx.")
    return found


def _inside(path: Path, real_root: Path) -> bool:
    return path.resolve().is_relative_to(real_root)


def _children(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except OSError as error:
        log.debug("%s cannot be read: %s", folder, error.strerror)
        return []


def _look_into(name: str, folder: Path, real_root: Path) -> Found:
    outside = f"leads out of the repository {real_root}: put a copy in its place"
    if not _inside(folder, real_root):
        return Found(name, folder, fault=f"the link {folder} {outside}")
    try:
        children = sorted(folder.iterdir())
    except OSError as error:
        return Found(name, folder, fault=f"the folder {folder} cannot be read: {error.strerror}")
    versions: dict[int, Path] = {}
    config_text = None
    faults: list[str] = []
    for child in children:
        if child.name == _CONFIG:
            try:
                config_text = _read_config(child, real_root)
            except _Fault as error:
                faults.append(str(error))
        elif not _VERSION.fullmatch(child.name) or not child.is_dir():
            log.debug("%s is not a version of model '%s': a version is a folder named by a whole number", child, name)
        elif not _inside(child, real_root):
            faults.append(f"the link {child} {outside}")
        else:
            versions[int(child.name)] = child
    if not versions:
        faults.append(f"it has no version: put the model into {folder}/1/")
    return Found(name, folder, versions, config_text, faults[0] if faults else "")


def _read_config(path: Path, real_root: Path) -> str:
    if not _inside(path, real_root):
        raise _Fault(f"the link {path} leads out of the repository {real_root}: put a copy in its place")
    try:
        if path.stat().st_size > _MAX_CONFIG_BYTES:
            raise _Fault(f"{path} is over 1 MiB, which no {_CONFIG} is")
        return path.read_text("utf-8")
    except OSError as error:
        raise _Fault(f"{path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise _Fault(f"{path} is not UTF-8 text") from None


# --- What should be served -------------------------------------------------------------------------------------------


def targets(found: Iterable[Found], root: Path, config: Config) -> list[Target]:
    """The versions that the models' version policies choose, each with its file or its fault."""
    wanted: list[Target] = []
    real_root = root.resolve()
    for model in found:
        versions: Sequence[int | None] = sorted(model.versions) or [None]
        if model.fault:
            wanted += [Target(model.name, v, model.folder, fault=model.fault) for v in versions]
            continue
        try:
            settings = model_config.read(model.name, model.config_text, config)
        except HeadraceError as error:
            wanted += [Target(model.name, v, model.folder, fault=error.message.rstrip(".")) for v in versions]
            continue
        for warning in settings.warnings:
            log.warning("%s", warning)
        chosen, missing = settings.versions(model.versions)
        wanted += [_target(model, version, settings, real_root) for version in chosen]
        for version in missing:
            fault = f"version_policy of its {_CONFIG} names version {version}, which is not in the folder"
            wanted.append(Target(model.name, version, model.folder, fault=fault))
        if not chosen and not missing:
            fault = f"version_policy of its {_CONFIG} chooses none of its versions"
            wanted.append(Target(model.name, None, model.folder, fault=fault))
    return wanted


def _target(model: Found, version: int, settings: ModelSettings, real_root: Path) -> Target:
    file = model.versions[version] / settings.filename
    fault = ""
    try:
        stat = file.stat()
    except OSError as error:
        fault = f"{file} cannot be read: {error.strerror}"
    else:
        if not _inside(file, real_root):
            fault = f"the link {file} leads out of the repository {real_root}: put a copy in its place"
        elif not file.is_file():
            fault = f"{file} is not a file"
        elif not os.access(file, os.R_OK):
            fault = f"{file} cannot be read: Permission denied"
    if fault:
        return Target(model.name, version, model.folder, fault=fault)
    fingerprint = f"{stat.st_ino} {stat.st_mtime_ns} {stat.st_size}\n{model.config_text}"
    return Target(model.name, version, model.folder, file, settings, fingerprint=fingerprint)


@dataclasses.dataclass(frozen=True)
class Load:
    """Load this version; if it was loaded before, the old one serves until then."""

    target: Target


@dataclasses.dataclass(frozen=True)
class Unload:
    """This version is not wanted any more."""

    name: str
    version: int | None


Action = Load | Unload


def plan(desired: Iterable[Target], actual: Mapping[tuple[str, int | None], str]) -> list[Action]:
    """What leads from `actual` (what is served, or was tried: key -> fingerprint) to `desired`: loads, then unloads."""
    wanted = {target.key: target for target in desired}
    loads: list[Action] = [
        Load(target) for key, target in wanted.items() if key not in actual or actual[key] != target.fingerprint
    ]
    return loads + [Unload(*key) for key in actual if key not in wanted]


# --- Doing it --------------------------------------------------------------------------------------------------------


class Repository:
    """Carries plans out, and tells the router what there is after each step. One broken model stops no other."""

    def __init__(self, engine: "Engine", router: Router, config: Config) -> None:
        self.root = Path(config.model_repository)
        self._engine = engine
        self._router = router
        self._config = config
        self._versions: dict[tuple[str, int | None], ModelVersion] = {}
        self._fingerprints: dict[tuple[str, int | None], str] = {}

    @property
    def faults(self) -> list[ModelVersion]:
        """The versions that should be served and cannot be."""
        return [version for version in self._versions.values() if version.state is State.UNAVAILABLE]

    async def load_all(self) -> None:
        """Scans the folder and brings what is served in line with it. StartError: no repository, or nothing in it."""
        if not self._config.model_repository:
            raise StartError("There is no model repository: give --model-repository DIR.")
        desired = await asyncio.to_thread(lambda: targets(scan(self.root), self.root, self._config))
        actions = plan(desired, self._fingerprints)
        for action in actions:
            if isinstance(action, Load) and action.target.key not in self._versions:
                self._put(ModelVersion(*action.target.key, State.LOADING, "it is still loading"), publish=False)
        self._publish()
        await asyncio.gather(*(self._load(a.target) for a in actions if isinstance(a, Load)))
        await asyncio.gather(*(self._unload((a.name, a.version)) for a in actions if isinstance(a, Unload)))

    def require_served(self) -> None:
        """StartError when nothing at all can be served, or with --exit-on-error when anything cannot."""
        faults = self.faults
        if not faults or not (self._config.exit_on_error or len(faults) == len(self._versions)):
            return
        first = f"model '{faults[0].name}': {faults[0].reason}"
        if len(faults) == len(self._versions):
            raise StartError(f"No model can be served. {first}.")
        raise StartError(f"{len(faults)} model version(s) cannot be served, and --exit-on-error is set. {first}.")

    def _publish(self) -> None:
        self._router.set(self._versions.values())

    def _put(self, version: ModelVersion, *, publish: bool = True) -> None:
        self._versions[version.name, version.version] = version
        if publish:
            self._publish()

    async def _load(self, target: Target) -> None:
        old = self._versions.get(target.key)
        label = f"model '{target.name}'" + (f" version {target.version}" if target.version is not None else "")
        started = time.monotonic()
        try:
            model, reason = await self._load_model(target), target.fault
        except HeadraceError as error:
            model, reason = None, error.message.rstrip(".")
        except Exception:  # a fault of ours in one model must not keep the others from being served
            log.exception("%s could not be loaded", label)
            model, reason = None, "an internal error; the log says more"
        self._fingerprints[target.key] = target.fingerprint
        if model is None:
            log.error("%s is not served: %s", label, reason)
            if old is None or old.model is None:  # a version that serves goes on serving
                self._put(ModelVersion(*target.key, State.UNAVAILABLE, reason))
            return
        self._put(ModelVersion(*target.key, State.READY, "", model, target.settings))
        log.info("%s loaded in %.2f s; %s", label, time.monotonic() - started, model.batching_reason)
        if old is not None and old.model is not None:
            await self._engine.unload(old.model)

    async def _load_model(self, target: Target) -> "Model | None":
        if target.file is None or target.settings is None or target.version is None:
            return None
        settings = target.settings
        model = await self._engine.load(
            name=target.name,
            version=target.version,
            backend=settings.backend,
            model_file=target.file.resolve(),
            model_dir=target.folder.resolve(),
            session=settings.session,
            batching=settings.batching,
        )
        try:
            for warning in model_config.check_signature(settings, model):
                log.warning("%s", warning)
        except HeadraceError:
            await self._engine.unload(model)
            raise
        return model

    async def _unload(self, key: tuple[str, int | None]) -> None:
        version = self._versions.pop(key, None)
        self._fingerprints.pop(key, None)
        self._publish()
        if version is not None and version.model is not None:
            await self._engine.unload(version.model)
            log.info("model '%s' version %s unloaded", version.name, version.version_text)
