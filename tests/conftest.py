"""What every test may ask for: the checkout, the models, the runtime's library, a server in a process of its own."""

import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from server_process import ServerProcess

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def root() -> Path:
    """The checkout."""
    return ROOT


@pytest.fixture(scope="session")
def models() -> Path:
    """The folder of models that tests/models/make_models.py makes; made if it is not there."""
    folder = Path(os.environ.get("HEADRACE_TEST_MODELS", ROOT / "build/models"))
    if not folder.is_dir() or not any(folder.iterdir()):
        subprocess.run([sys.executable, ROOT / "tests/models/make_models.py", folder], check=True)
    return folder


@pytest.fixture(scope="session")
def node_modules() -> Path:
    """The npm packages that tests/js/package-lock.json pins; installed if they are not there."""
    folder = ROOT / "build/js"
    if not (folder / ".installed").exists():
        subprocess.run([ROOT / "scripts/setup", "js"], check=True, timeout=120)
    return folder / "node_modules"


@pytest.fixture(scope="session")
def ort_library() -> Path:
    """The runtime's shared library, found as the product finds it: beside the package, without importing that."""
    folder = Path(sysconfig.get_path("platlib")) / "onnxruntime/capi"
    found = sorted(folder.glob("libonnxruntime.so.*"))
    assert found, f"no libonnxruntime.so.* in {folder}: run make setup"
    return found[0]


@pytest.fixture(scope="session")
def magika_model() -> Path:
    """The real model that the `magika` package carries: INT32[N, 2048] "bytes" -> FP32[N, 214] "target_label"."""
    folder = Path(sysconfig.get_path("purelib")) / "magika/models"
    return next(folder.glob("*/model.onnx"))


@pytest.fixture
def repository(tmp_path: Path) -> Callable[..., Path]:
    """repository(name=file, ...): a model repository with each ONNX file as version 1 of that name."""

    def make(**files: Path) -> Path:
        folder = tmp_path / "repository"
        for name, file in files.items():
            version = folder / name / "1"
            version.mkdir(parents=True)
            shutil.copyfile(file, version / "model.onnx")
        return folder

    return make


@pytest.fixture
def serve() -> Iterator[Callable[..., ServerProcess]]:
    """serve(repository, *flags): a ready server on free ports, ended with the test if the test did not end it."""
    with ExitStack() as stack:

        def start(repository: Path, *flags: str) -> ServerProcess:
            return stack.enter_context(ServerProcess(repository, *flags))

        yield start
