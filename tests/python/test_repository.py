"""The repository: what is found, what is confined, what is planned, and what one broken model does to the others."""

import asyncio
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from headrace import config
from headrace.errors import InvalidArgument, NotFound, ResourceExhausted, StartError
from headrace.layout import Target, scan, targets
from headrace.repository import Load, Repository, Unload, plan
from headrace.router import Router, State

HOST = config.Host(cores=4, memory_bytes=8 * config.GIB)
CONFIG = config.resolve({}, host=HOST)


def put(root: Path, *names: str, text: str = "x") -> None:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def wanted(root: Path) -> dict[tuple[str, int | None], Target]:
    return {target.key: target for target in targets(scan(root), root, CONFIG)}


# --- What is found


def test_models_and_versions(tmp_path: Path) -> None:
    put(tmp_path, "b/1/model.onnx", "a/2/model.onnx", "a/10/model.onnx", "README.md", ".git/1/model.onnx")
    put(tmp_path, "a/01/model.onnx", "a/v3/model.onnx", "a/-1/model.onnx", "a/notes.txt", "a/9999999999999999999/x")
    put(tmp_path, "lost+found~/journal")  # not a model's name, and no version in it
    found = scan(tmp_path)
    assert [(model.name, sorted(model.versions), model.fault) for model in found] == [
        ("a", [2, 10], ""),
        ("b", [1], ""),
    ]
    assert {key: target.fault for key, target in wanted(tmp_path).items()} == {("a", 10): "", ("b", 1): ""}
    assert wanted(tmp_path)["b", 1].file == tmp_path / "b/1/model.onnx"


@pytest.mark.parametrize("name", ["with space", "a'b", "ünicode"])
def test_a_name_that_cannot_be_served_is_reported(tmp_path: Path, name: str) -> None:
    put(tmp_path, f"{name}/1/model.onnx")
    assert "its name cannot be served" in wanted(tmp_path)[name, None].fault


@pytest.mark.parametrize(
    ("files", "key", "words"),
    [
        (["m/config.pbtxt"], ("m", None), "it has no version"),
        (["m/1/other.onnx"], ("m", 1), "m/1/model.onnx cannot be read: No such file"),
        (["m/1/model.onnx/part"], ("m", 1), "is not a file"),
    ],
)
def test_what_is_missing_is_named(tmp_path: Path, files: list[str], key: tuple[str, int | None], words: str) -> None:
    put(tmp_path, *files, text="")
    assert words in wanted(tmp_path)[key].fault


def test_a_missing_or_empty_repository_ends_the_start(tmp_path: Path) -> None:
    with pytest.raises(StartError, match=r"none cannot be read: No such file.*--model-repository"):
        scan(tmp_path / "none")
    with pytest.raises(StartError, match="has no model in it"):
        scan(tmp_path)
    put(tmp_path, "file")
    with pytest.raises(StartError, match="Not a directory"):
        scan(tmp_path / "file")


def test_the_configuration_chooses_versions_and_file(tmp_path: Path) -> None:
    put(tmp_path, "m/1/net.onnx", "m/2/net.onnx", "m/3/model.onnx")
    put(
        tmp_path,
        "m/config.pbtxt",
        text='default_model_filename: "net.onnx" version_policy { specific { versions: [1, 2, 7] } }',
    )
    found = wanted(tmp_path)
    assert sorted(found, key=str) == [("m", 1), ("m", 2), ("m", 7)]
    assert found["m", 2].file == tmp_path / "m/2/net.onnx"
    assert "names version 7" in found["m", 7].fault


def test_a_broken_configuration_is_the_fault_of_each_version(tmp_path: Path) -> None:
    put(tmp_path, "m/1/model.onnx", "m/2/model.onnx")
    put(tmp_path, "m/config.pbtxt", text="max_batch_size: many")
    found = wanted(tmp_path)
    assert sorted(found) == [("m", 1), ("m", 2)]
    assert all("cannot be read: line 1:" in target.fault for target in found.values())


def test_a_configuration_that_is_no_text(tmp_path: Path) -> None:
    put(tmp_path, "m/1/model.onnx", "n/1/model.onnx")
    (tmp_path / "m/config.pbtxt").write_bytes(b"\xff\xfe")
    (tmp_path / "n/config.pbtxt").write_bytes(b"#" * ((1 << 20) + 1))
    assert "is not UTF-8 text" in wanted(tmp_path)["m", 1].fault
    assert "over 1 MiB" in wanted(tmp_path)["n", 1].fault


# --- Confined


@pytest.mark.parametrize("link", ["m", "m/1", "m/1/model.onnx", "m/config.pbtxt"])
def test_a_link_that_leads_out_is_refused(tmp_path: Path, link: str) -> None:
    root, outside = tmp_path / "repository", tmp_path / "outside"
    put(outside, "1/model.onnx", "model.onnx", "config.pbtxt", text="")
    if link != "m":
        put(root, "m/1/model.onnx", text="")
    path = root / link
    path.parent.mkdir(parents=True, exist_ok=True)
    target = {"m": outside, "m/1": outside / "1", "m/1/model.onnx": outside / "model.onnx"}.get(
        link, outside / "config.pbtxt"
    )
    if path.is_dir():
        (path / "model.onnx").unlink()
        path.rmdir()
    path.unlink(missing_ok=True)
    path.symlink_to(target)
    found = list(wanted(root).values())
    assert len(found) == 1
    assert "leads out of the repository" in found[0].fault
    assert str(path) in found[0].fault


def test_links_inside_and_a_linked_root_are_fine(tmp_path: Path) -> None:
    # As Kubernetes mounts a volume: everything is a link, and nothing leaves the folder.
    root = tmp_path / "real"
    put(root, "..data/m/1/model.onnx")
    (root / "m").symlink_to("..data/m")
    (tmp_path / "linked").symlink_to(root)
    assert wanted(tmp_path / "linked")["m", 1].fault == ""


# --- Planned


def target(name: str, version: int, fingerprint: str = "1") -> Target:
    return Target(name, version, Path(name), fingerprint=fingerprint)


def test_plan_loads_what_is_new_or_changed_and_then_unloads_what_is_gone() -> None:
    same, changed, new = target("same", 1), target("changed", 1, "2"), target("new", 3)
    actual: dict[tuple[str, int | None], str] = {("gone", 1): "1", ("same", 1): "1", ("changed", 1): "1"}
    assert plan([same, changed, new], actual) == [Load(changed), Load(new), Unload("gone", 1)]
    assert plan([same], {("same", 1): "1"}) == []
    assert plan([], {}) == []


def test_a_file_that_changes_is_loaded_again(tmp_path: Path) -> None:
    put(tmp_path, "m/1/model.onnx")
    before = {key: found.fingerprint for key, found in wanted(tmp_path).items()}
    assert plan(wanted(tmp_path).values(), before) == []
    put(tmp_path, "m/1/model.onnx", text="longer")
    assert plan(wanted(tmp_path).values(), before) == [Load(wanted(tmp_path)["m", 1])]


# --- Done


class Engine:
    """Loads what is called good, refuses what is called bad, and remembers."""

    def __init__(self, together: int = 0) -> None:
        """`together`: so many loads wait for each other."""
        self.loaded: list[str] = []
        self.unloaded: list[str] = []
        self.labels: dict[str, dict[str, list[str]]] = {}
        self.settled = False
        self._together = asyncio.Barrier(together) if together else None

    async def load(self, **spec: Any) -> Any:
        if self._together is not None:
            await asyncio.wait_for(self._together.wait(), 60)
        if spec["name"].startswith("bad"):
            raise InvalidArgument(f"{spec['model_file']} is not a model.")
        if spec["name"].startswith("worse"):
            raise ZeroDivisionError
        self.loaded.append(spec["name"])
        self.labels[spec["name"]] = spec["labels"]
        tensors = [{"name": "x", "datatype": "FP32", "shape": [-1], "optional": False}]
        return SimpleNamespace(
            name=spec["name"],
            inputs=tensors,
            outputs=tensors,
            max_batch_size=0,
            batching_reason="because",
            warmup_note="",
            intra_op_threads=1,
            lanes=4,
            threads_reason="measured",
            thread_trials=[],
            provider="cpu",
            provider_note="",
        )

    async def unload(self, model: Any, *, finish: bool = False) -> None:
        if finish:
            assert self.settled, "what still comes by the old catalog would be lost"
        self.unloaded.append(model.name)

    async def settle(self) -> None:
        self.settled = True


def load(root: Path, engine: Engine | None = None, **flags: Any) -> tuple[Repository, Router, Engine, list[Any]]:
    engine, published = engine or Engine(), list[Any]()
    router = Router(published.append)
    settings = config.resolve({"model_repository": str(root), **flags}, host=HOST)
    repository = Repository(cast(Any, engine), router, settings)
    asyncio.run(repository.load_initial() if "load_model" in flags else repository.load_all())
    return repository, router, engine, published


def test_labels_go_with_the_model_and_a_missing_file_is_its_fault(tmp_path: Path) -> None:
    text = 'output { name: "x" label_filename: "names.txt" }'
    put(tmp_path, "good/1/model.onnx", "good/config.pbtxt", "lost/1/model.onnx", "lost/config.pbtxt", text=text)
    (tmp_path / "good/names.txt").write_text("cat\ndog\n")
    _, router, engine, _ = load(tmp_path)
    states = {version.name: (version.state, version.reason) for version in router.versions}
    assert states["good"] == (State.READY, "")
    assert engine.labels == {"good": {"x": ["cat", "dog"]}}
    assert states["lost"][0] is State.UNAVAILABLE
    assert "names.txt cannot be read: No such file" in states["lost"][1]


def test_one_broken_model_stops_no_other(tmp_path: Path) -> None:
    put(tmp_path, "good/1/model.onnx", "bad/1/model.onnx", "worse/1/model.onnx", "empty/config.pbtxt", text="")
    repository, router, engine, _ = load(tmp_path)
    states = {version.name: (version.state, version.reason) for version in router.versions}
    assert states["good"] == (State.READY, "")
    assert states["bad"] == (State.UNAVAILABLE, f"{tmp_path}/bad/1/model.onnx is not a model")
    assert states["worse"] == (State.UNAVAILABLE, "an internal error; the log says more")
    assert "it has no version" in states["empty"][1]
    assert engine.loaded == ["good"]
    assert sorted(version.name for version in repository.faults) == ["bad", "empty", "worse"]
    repository.require_served()


def test_models_load_side_by_side_and_are_known_while_they_load(tmp_path: Path) -> None:
    put(tmp_path, "a/1/model.onnx", "b/1/model.onnx")
    _, _, engine, published = load(tmp_path, Engine(together=2))
    assert sorted(engine.loaded) == ["a", "b"]
    assert published[0] == [(name, text, "it is still loading") for name in ("a", "b") for text in ("", "1")]
    assert [row[2].name for row in published[-1]] == ["a", "a", "b", "b"]


def test_a_model_that_its_configuration_does_not_fit_is_unloaded(tmp_path: Path) -> None:
    put(tmp_path, "m/1/model.onnx")
    put(tmp_path, "m/config.pbtxt", text='input { name: "y" }')
    repository, _, engine, _ = load(tmp_path)
    assert engine.unloaded == ["m"]
    assert "there is no input 'y'" in repository.faults[0].reason


def test_nothing_to_serve_ends_the_start(tmp_path: Path) -> None:
    put(tmp_path, "bad/1/model.onnx")
    repository, *_ = load(tmp_path)
    with pytest.raises(StartError, match=r"No model can be served\. model 'bad': .*is not a model\.$"):
        repository.require_served()


def test_exit_on_error_asks_for_all(tmp_path: Path) -> None:
    put(tmp_path, "good/1/model.onnx", "bad/1/model.onnx")
    repository, *_ = load(tmp_path, exit_on_error=True)
    with pytest.raises(StartError, match=r"^1 model version\(s\) cannot be served, and --exit-on-error"):
        repository.require_served()


def test_no_repository_is_named() -> None:
    with pytest.raises(StartError, match="give --model-repository DIR"):
        asyncio.run(Repository(cast(Any, Engine()), Router(lambda rows: None), CONFIG).load_all())


def test_a_second_scan_changes_only_what_changed(tmp_path: Path) -> None:
    put(tmp_path, "a/1/model.onnx", "b/1/model.onnx")
    repository, router, engine, _ = load(tmp_path)
    (tmp_path / "b/1/model.onnx").unlink()
    os.rmdir(tmp_path / "b/1")
    os.rmdir(tmp_path / "b")
    put(tmp_path, "a/1/model.onnx", text="longer")
    put(tmp_path, "c/1/model.onnx")
    asyncio.run(repository.load_all())
    assert sorted(engine.loaded) == ["a", "a", "b", "c"]
    assert sorted(engine.unloaded) == ["a", "b"]
    assert [version.name for version in router.versions] == ["a", "c"]


# --- Asked for


def asked(root: Path, **flags: Any) -> tuple[Repository, Router, Engine, list[Any]]:
    return load(root, model_control_mode="explicit", **flags)


def states(router: Router) -> dict[tuple[str, int | None], tuple[State, str]]:
    return {(v.name, v.version): (v.state, v.reason) for v in router.versions}


def test_a_reload_comes_before_the_unload_and_in_one_catalog(tmp_path: Path) -> None:
    put(tmp_path, "m/1/model.onnx")
    repository, router, engine, published = asked(tmp_path)
    put(tmp_path, "m/2/model.onnx")
    before = len(published)
    asyncio.run(repository.load("m"))
    assert engine.unloaded == ["m"]
    assert states(router) == {("m", 2): (State.READY, "")}
    served = [[row[1] for row in rows if not isinstance(row[2], str)] for rows in published[before:]]
    assert all(versions in (["", "1"], ["", "2"]) for versions in served)


def test_a_reload_that_fails_changes_nothing_but_the_reason(tmp_path: Path) -> None:
    put(tmp_path, "m/1/model.onnx")
    repository, router, engine, _ = asked(tmp_path)
    put(tmp_path, "m/config.pbtxt", text="version_policy { specific { versions: [1, 7] } }")
    with pytest.raises(InvalidArgument, match=r"'m' could not be loaded: version 7: .*names version 7"):
        asyncio.run(repository.load("m"))
    assert engine.unloaded == ["m"]  # the new version 1, which nobody has seen
    assert states(router)["m", 1] == (State.READY, "another version of the same load failed")
    assert states(router)["m", 7][0] is State.UNAVAILABLE
    asyncio.run(repository.load("m", config_json="{}"))
    assert states(router) == {("m", 1): (State.READY, "")}


def test_equal_loads_that_wait_are_one_and_an_unload_between_them_is_not_passed(tmp_path: Path) -> None:
    put(tmp_path, "m/1/model.onnx")
    repository, router, engine, _ = asked(tmp_path)

    async def work() -> None:
        await asyncio.gather(*(repository.load("m") for _ in range(10)))
        assert engine.loaded == ["m"] * 2  # at the start, and once for all ten
        await asyncio.gather(repository.load("m"), repository.unload("m"), repository.load("m"), repository.load("m"))
        assert engine.loaded == ["m"] * 4

    asyncio.run(work())
    assert states(router) == {("m", 1): (State.READY, "")}
    assert cast(Any, repository)._turns == {}


def test_turns_are_bounded_and_a_caller_that_goes_stops_nothing(tmp_path: Path) -> None:
    put(tmp_path, "m/1/model.onnx")
    repository, router, _, _ = asked(tmp_path)

    async def work() -> None:
        works = [asyncio.ensure_future(repository.load("m", config_json="{}")) for _ in range(65)]
        await asyncio.sleep(0)
        works[3].cancel()
        results = await asyncio.gather(*works, return_exceptions=True)
        assert [type(r) for r in results].count(ResourceExhausted) == 1
        assert [type(r) for r in results].count(asyncio.CancelledError) == 1

    asyncio.run(work())
    assert states(router) == {("m", 1): (State.READY, "")}


def test_an_unload_keeps_the_row_and_the_index_has_every_model(tmp_path: Path) -> None:
    put(tmp_path, "m/1/model.onnx", "n/1/model.onnx")
    repository, _, engine, published = asked(tmp_path, load_model=("m",))
    before = len(published)
    asyncio.run(repository.unload("m"))
    assert published[before] == [("m", "", "it is being unloaded"), ("m", "1", "it is being unloaded")]
    assert engine.unloaded == ["m"]
    rows = asyncio.run(repository.index())
    assert [(row.name, row.version, row.reason, row.wanted) for row in rows] == [
        ("m", 1, "unloaded", False),
        ("n", None, "it is not loaded", False),
    ]
    assert repository.faults == []
    asyncio.run(repository.unload("m"))
    asyncio.run(repository.unload("nothing"))
    assert engine.unloaded == ["m"]


def test_what_the_start_is_asked_to_load_and_lacks(tmp_path: Path) -> None:
    repository, router, _, _ = asked(tmp_path, load_model=("missing",))
    assert "there is no folder" in states(router)["missing", None][1]
    with pytest.raises(StartError, match="No model can be served"):
        repository.require_served()
    asyncio.run(repository.close())


def test_an_explicit_start_loads_nothing_of_itself(tmp_path: Path) -> None:
    put(tmp_path, "m/1/model.onnx")
    engine, router = Engine(), Router(lambda rows: None)
    settings = config.resolve({"model_repository": str(tmp_path), "model_control_mode": "explicit"}, host=HOST)
    repository = Repository(cast(Any, engine), router, settings)
    asyncio.run(repository.load_initial())
    repository.require_served()
    assert engine.loaded == []
    assert router.versions == ()
    with pytest.raises(NotFound, match=r"'\.\./m' is not in the model repository"):
        asyncio.run(repository.load("../m"))
