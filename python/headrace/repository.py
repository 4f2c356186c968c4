"""The model repository: what has to be done so that what is wanted is served (`plan`, pure), and the doing.

Loading comes before unloading: what serves goes on serving until its successor is there, and a load that fails leaves
it alone. All on loop 0; files are read, and models loaded and unloaded, in threads.
"""

import asyncio
import dataclasses
import itertools
import logging
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from headrace import labels, model_config, warmup
from headrace.config import Config
from headrace.errors import (
    FailedPrecondition,
    HeadraceError,
    InvalidArgument,
    NotFound,
    ResourceExhausted,
    StartError,
)
from headrace.layout import MODEL_NAME, Target, look, scan, targets
from headrace.providers import cache_folders, device_of
from headrace.router import ModelVersion, Router, State
from headrace.uploads import Upload, Uploads

if TYPE_CHECKING:
    from headrace.engine import Engine, Model
    from headrace.sessions import SessionOptions

__all__ = ["Action", "Load", "Repository", "Unload", "plan"]

log = logging.getLogger("headrace.repository")

_MOST_WAITING = 64  # loads and unloads of one model that wait for their turn

Key = tuple[str, int | None]  # name and version


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


def plan(desired: Iterable[Target], actual: Mapping[Key, str]) -> list[Action]:
    """What leads from `actual` (what is served, or was tried: key -> fingerprint) to `desired`: loads, then unloads."""
    wanted = {target.key: target for target in desired}
    loads: list[Action] = [
        Load(target) for key, target in wanted.items() if key not in actual or actual[key] != target.fingerprint
    ]
    return loads + [Unload(*key) for key in actual if key not in wanted]


# --- Doing it --------------------------------------------------------------------------------------------------------


class _Turn:
    """Loads and unloads of one model, one after the other. Equal ones that wait in a row are one."""

    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        self.waiting = 0
        self.last_key: object = None  # of the last that waits
        self.last: asyncio.Task[None] | None = None


class Repository:
    """Carries plans out, and tells the router what there is after each step. One broken model stops no other."""

    def __init__(self, engine: "Engine", router: Router, config: Config) -> None:
        self.root = Path(config.model_repository)
        self._engine = engine
        self._router = router
        self._config = config
        self._versions: dict[Key, ModelVersion] = {}
        self._fingerprints: dict[Key, str] = {}
        self._turns: dict[str, _Turn] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._uploads = Uploads(config.max_upload_bytes)
        self._uploaded: dict[str, Upload] = {}  # of models that serve from one

    @property
    def faults(self) -> list[ModelVersion]:
        """The versions that should be served and cannot be."""
        return [v for v in self._versions.values() if v.state is State.UNAVAILABLE and v.wanted]

    async def load_initial(self) -> None:
        """What the start loads: everything, or in mode explicit what --load-model names. StartError as load_all."""
        if self._config.allow_model_upload and (swept := await asyncio.to_thread(Uploads.sweep)):
            log.warning("removed the uploaded files of %d servers that had ended without removing them", swept)
        names = self._config.load_model
        if self._config.model_control_mode != "explicit" or "*" in names:
            await self.load_all()
        else:
            await self.load_all(frozenset(names))

    async def load_all(self, names: frozenset[str] | None = None) -> None:
        """Scans the folder and brings what is served (of these models) in line with it. StartError: no repository, or
        nothing in it."""
        if not self._config.model_repository:
            raise StartError("There is no model repository: give --model-repository DIR.")
        empty = self._config.model_control_mode == "explicit"
        found = await asyncio.to_thread(scan, self.root, may_be_empty=empty)
        if names is not None:
            found = [model for model in found if model.name in names]
            for name in names - {model.name for model in found}:
                reason = f"there is no folder {self.root / name} (--load-model)"
                log.error("model '%s' is not served: %s", name, reason)
                self._put(ModelVersion(name, None, State.UNAVAILABLE, reason), publish=False)
        desired = await asyncio.to_thread(targets, found, self.root, self._config)
        by_name: dict[str, list[Action]] = {}
        for action in plan(desired, self._fingerprints):
            by_name.setdefault(action.target.name if isinstance(action, Load) else action.name, []).append(action)
        for actions in by_name.values():
            self._mark_loading(action.target for action in actions if isinstance(action, Load))
        self._publish()

        async def carry_out(name: str, actions: Sequence[Action]) -> None:
            await self._carry_out(name, actions)

        await asyncio.gather(*(self._in_turn(n, object(), partial(carry_out, n, a)) for n, a in by_name.items()))

    def require_served(self) -> None:
        """StartError when nothing at all can be served, or with --exit-on-error when anything cannot."""
        faults = self.faults
        if not faults or not (self._config.exit_on_error or len(faults) == len(self._versions)):
            return
        first = f"model '{faults[0].name}': {faults[0].reason}"
        if len(faults) == len(self._versions):
            raise StartError(f"No model can be served. {first}.")
        raise StartError(f"{len(faults)} model version(s) cannot be served, and --exit-on-error is set. {first}.")

    # --- What a caller asks for

    async def load(self, name: str, config_json: str | None = None, files: Mapping[str, bytes] | None = None) -> None:
        """Loads (again) the versions that the model's policy chooses, and unloads the others. `config_json` stands in
        for its config.pbtxt; `files` (path below its folder -> content) for its folder.

        NotFound: no such model. InvalidArgument says which version could not be loaded and why; what served before
        goes on then, all of it. The work goes on if the caller stops waiting."""
        plain = config_json is None and not files
        await self._in_turn(name, "load" if plain else object(), lambda: self._load_asked(name, config_json, files))

    async def unload(self, name: str) -> None:
        """Ends what serves under this name behind its last request, and gives the memory back. No effect on a model
        that is not loaded."""
        await self._in_turn(name, "unload", lambda: self._unload_asked(name))

    async def index(self) -> list[ModelVersion]:
        """Every version that is or was wanted, and one row without a version for each other model of the folder."""
        found = await asyncio.to_thread(scan, self.root, may_be_empty=True)
        known = {name for name, _ in self._versions}
        rest = [ModelVersion(f.name, None, State.UNAVAILABLE, "it is not loaded", wanted=False) for f in found]
        rows = [*self._versions.values(), *(row for row in rest if row.name not in known)]
        return sorted(rows, key=lambda row: (row.name, row.version or 0))

    async def close(self) -> None:
        """Ends what is still going on, and removes what callers have brought. The engine is closed by now."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.to_thread(self._uploads.close)

    async def _in_turn(self, name: str, key: object, work: Callable[[], Awaitable[None]]) -> None:
        turn = self._turns.setdefault(name, _Turn())
        if turn.last is None or turn.last_key != key:
            if turn.waiting >= _MOST_WAITING:
                raise ResourceExhausted(
                    f"{turn.waiting} loads and unloads of model '{name}' wait already; wait for their answers"
                )
            turn.waiting += 1
            turn.last_key = key
            turn.last = asyncio.create_task(self._take_turn(name, turn, key, work))
            self._tasks.add(turn.last)
            turn.last.add_done_callback(self._done)
        await asyncio.shield(turn.last)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # those who waited for it may have gone

    async def _take_turn(self, name: str, turn: _Turn, key: object, work: Callable[[], Awaitable[None]]) -> None:
        try:
            async with turn.lock:
                if turn.last_key == key:
                    turn.last = turn.last_key = None  # whoever comes from now on wants another one
                await work()
        finally:
            turn.waiting -= 1
            if not turn.waiting:
                self._turns.pop(name, None)

    async def _load_asked(self, name: str, config_json: str | None, files: Mapping[str, bytes] | None) -> None:
        upload = None
        if files:
            if not MODEL_NAME.fullmatch(name):
                raise InvalidArgument(
                    f"'{name}' cannot be a model's name: it may have letters, digits and _ . + - only"
                )
            upload = await asyncio.to_thread(self._uploads.place, name, files)
        root = self.root if upload is None else upload.root
        try:
            desired = await asyncio.to_thread(self._wanted, name, root, config_json)
            actual = {key: "before" for key in self._versions if key[0] == name}  # what is there is loaded again
            failed = await self._carry_out(name, plan(desired, actual), whole=True)
            if failed:
                raise InvalidArgument(f"model '{name}' could not be loaded: {'; '.join(failed)}")
        except BaseException:
            await self._forget_upload(upload)
            raise
        before = self._uploaded.pop(name, None)
        if upload is not None:
            self._uploaded[name] = upload
        await self._forget_upload(before)

    def _wanted(self, name: str, root: Path, config_json: str | None) -> list[Target]:
        found = look(name, root, config_json)
        if found is None:
            raise NotFound(f"model '{name}' is not in the model repository {self.root}")
        return targets([found], root, self._config)

    async def _forget_upload(self, upload: Upload | None) -> None:
        if upload is not None:
            await asyncio.to_thread(self._uploads.remove, upload)

    async def _unload_asked(self, name: str) -> None:
        served = [version for version in self._named(name) if version.model is not None]
        for version in self._named(name):
            self._fingerprints.pop((name, version.version), None)
            state = State.UNAVAILABLE if version.model is None else State.UNLOADING
            reason = version.reason if version.model is None else "it is being unloaded"
            self._put(ModelVersion(name, version.version, state, reason, wanted=False), publish=False)
        self._publish()
        await self._end(served)
        in_folder = await asyncio.to_thread(look, name, self.root)
        for version in self._named(name):
            if in_folder is None:  # it came with a request, or its folder is gone
                self._versions.pop((name, version.version))
            elif version.state is State.UNLOADING:
                row = dataclasses.replace(version, state=State.UNAVAILABLE, reason="unloaded")
                self._put(row, publish=False)
        self._publish()
        await self._forget_upload(self._uploaded.pop(name, None))

    # --- Carrying out

    def _named(self, name: str) -> list[ModelVersion]:
        return [version for (known, _), version in self._versions.items() if known == name]

    def _publish(self) -> None:
        self._router.set(self._versions.values())

    def _put(self, version: ModelVersion, *, publish: bool = True) -> None:
        self._versions[version.name, version.version] = version
        if publish:
            self._publish()

    def _mark_loading(self, loads: Iterable[Target]) -> None:
        for target in loads:
            old = self._versions.get(target.key)
            if old is None or old.model is None:
                self._put(ModelVersion(*target.key, State.LOADING, "it is still loading"), publish=False)

    async def _carry_out(self, name: str, actions: Sequence[Action], *, whole: bool = False) -> list[str]:
        """Does what the plan says of one model; one catalog makes all of it visible. Returns what could not be loaded
        and why. If anything could not, and the model serves or the `whole` was asked for, nothing changes but the
        reasons."""
        loads = [action.target for action in actions if isinstance(action, Load)]
        self._mark_loading(loads)
        self._publish()
        results = await asyncio.gather(*(self._load_version(target) for target in loads))
        loaded = {target.key: (target, result) for target, result in zip(loads, results, strict=True)}
        failed = {key: result for key, (_, result) in loaded.items() if isinstance(result, str)}
        before = self._named(name)
        if failed and (whole or any(version.model is not None for version in before)):
            await self._keep(loaded)
        else:
            for key, (target, result) in loaded.items():
                self._fingerprints[key] = target.fingerprint
                if isinstance(result, str):
                    self._put(ModelVersion(*key, State.UNAVAILABLE, result), publish=False)
                else:
                    self._put(ModelVersion(*key, State.READY, "", result, target.settings), publish=False)
            for action in actions:
                if isinstance(action, Unload):
                    self._versions.pop((action.name, action.version), None)
                    self._fingerprints.pop((action.name, action.version), None)
            self._publish()
            still = {id(version.model) for version in self._named(name)}
            await self._end([v for v in before if v.model is not None and id(v.model) not in still])
        return [why if version is None else f"version {version}: {why}" for (_, version), why in failed.items()]

    async def _keep(self, loaded: "Mapping[Key, tuple[Target, Model | str]]") -> None:
        """Of a model that serves, something new could not be loaded: what serves stays as it is."""
        new: list[Model] = []
        for key, (target, result) in loaded.items():
            old = self._versions[key]
            if isinstance(result, str):
                self._fingerprints[key] = target.fingerprint
                reason = result
            else:
                new.append(result)
                reason = "another version of the same load failed"
            if old.model is not None:
                self._put(dataclasses.replace(old, reason=reason), publish=False)
            else:
                self._put(ModelVersion(*key, State.UNAVAILABLE, reason), publish=False)
        self._publish()
        await asyncio.gather(*(self._engine.unload(model) for model in new))

    async def _end(self, versions: Sequence[ModelVersion]) -> None:
        """Unloads what the catalog of now no longer has, behind its last request."""
        if not versions:
            return
        await self._engine.settle()
        await asyncio.gather(*(self._engine.unload(v.model, finish=True) for v in versions if v.model is not None))
        for version in versions:
            log.info("model '%s' version %s unloaded", version.name, version.version_text)

    async def _load_version(self, target: Target) -> "Model | str":
        """The model, or why there is none."""
        label = f"model '{target.name}'" + (f" version {target.version}" if target.version is not None else "")
        started = time.monotonic()
        model: Model | None = None
        try:
            model, reason = await self._load_model(target), target.fault
        except HeadraceError as error:
            reason = error.message.rstrip(".")
        except Exception:  # a fault of ours in one model must not keep the others from being served
            log.exception("%s could not be loaded", label)
            reason = "an internal error; the log says more"
        if model is None:
            log.error("%s is not served: %s", label, reason)
            return reason
        notes = (model.batching_reason, model_config.threads_text(model), model.warmup_note)
        log.info("%s loaded in %.2f s; %s", label, time.monotonic() - started, "; ".join(filter(None, notes)))
        if model.provider_note:
            log.warning("%s runs on %s: %s", label, device_of(model.provider), model.provider_note)
        return model

    def _make_cache_folders(self, session: "SessionOptions") -> None:
        chains = [session.get("providers", []), *(device["providers"] for device in session.get("devices", ()))]
        for provider in itertools.chain.from_iterable(chains):
            for folder in cache_folders(provider["options"], self._config):
                try:
                    folder.mkdir(parents=True, exist_ok=True)
                except OSError as error:
                    raise FailedPrecondition(
                        f"the folder {folder} for TensorRT's engines cannot be made: {error.strerror} (--cache-dir)"
                    ) from None

    async def _load_model(self, target: Target) -> "Model | None":
        if target.file is None or target.settings is None or target.version is None:
            return None
        settings = target.settings
        has_labels = any(output.label_filename for output in settings.message.output)
        class_labels = await asyncio.to_thread(labels.read, settings, target.folder) if has_labels else {}
        if settings.message.model_warmup:  # files may be among it
            warm = await asyncio.to_thread(warmup.read, settings, target.folder)
        else:
            warm = warmup.read(settings, target.folder)
        session = model_config.session_of(settings, target.version, target.file.resolve(), self._config)
        await asyncio.to_thread(self._make_cache_folders, session)
        model = await self._engine.load(
            name=target.name,
            version=target.version,
            backend=settings.backend,
            model_file=target.file.resolve(),
            model_dir=target.folder.resolve(),
            session=session,
            batching=settings.batching,
            labels=class_labels,
            warmup=warm,
        )
        try:
            for warning in model_config.check_signature(settings, model):
                log.warning("%s", warning)
        except HeadraceError:
            await self._engine.unload(model)
            raise
        return model
