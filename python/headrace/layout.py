"""The model repository on disk: what lies in the folder (`scan`, `look`), and what should be served of it (`targets`).

Layout: `<repository>/<model>/<version>/model.onnx`, with or without `<model>/config.pbtxt`. Nothing is read from
outside the repository: a link that leads out is refused.
"""

import dataclasses
import logging
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from headrace import model_config
from headrace.config import Config
from headrace.errors import HeadraceError, StartError
from headrace.model_config import ModelSettings

__all__ = ["MODEL_NAME", "Found", "Target", "look", "scan", "targets"]

log = logging.getLogger("headrace.layout")

MODEL_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+\-]{0,254}")
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
    config_is_json: bool = False  # it came with a load request


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


def scan(root: Path, *, may_be_empty: bool = False) -> list[Found]:
    """All models in the folder, by name. StartError when there is no folder, or (unless it may) nothing in it."""
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
        if not MODEL_NAME.fullmatch(entry.name):
            if _inside(folder, real_root) and any(_VERSION.fullmatch(child.name) for child in _children(folder)):
                rule = "a model's name has letters, digits and _ . + - only"
                found.append(Found(entry.name, folder, fault=f"its name cannot be served: {rule}"))
            continue
        found.append(_look_into(entry.name, folder, real_root))
    if not found and not may_be_empty:
        raise StartError(f"The model repository {root} has no model in it: put one into {root}/<model>/1/model.onnx.")
    return found


def look(name: str, root: Path, config_json: str | None = None) -> Found | None:
    """The model `name` of the folder `root`, None if there is none. `config_json` stands in for its config.pbtxt."""
    folder = root / name
    if not MODEL_NAME.fullmatch(name) or not folder.is_dir():
        return None
    return _look_into(name, folder, root.resolve(), config_json)


def _inside(path: Path, real_root: Path) -> bool:
    return path.resolve().is_relative_to(real_root)


def _children(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except OSError as error:
        log.debug("%s cannot be read: %s", folder, error.strerror)
        return []


def _look_into(name: str, folder: Path, real_root: Path, config_json: str | None = None) -> Found:
    outside = f"leads out of the repository {real_root}: put a copy in its place"
    if not _inside(folder, real_root):
        return Found(name, folder, fault=f"the link {folder} {outside}")
    try:
        children = sorted(folder.iterdir())
    except OSError as error:
        return Found(name, folder, fault=f"the folder {folder} cannot be read: {error.strerror}")
    versions: dict[int, Path] = {}
    config_text = config_json
    faults: list[str] = []
    for child in children:
        if child.name == _CONFIG:
            if config_json is not None:
                continue
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
    return Found(name, folder, versions, config_text, faults[0] if faults else "", config_json is not None)


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
            settings = model_config.read(model.name, model.config_text, config, is_json=model.config_is_json)
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
