"""Environments outside of the checkout: the wheel, installed as a stranger would."""

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from server_process import server_environment


@dataclass(frozen=True)
class Environment:
    """A virtual environment of its own, used from a folder that is not the checkout's."""

    folder: Path

    @property
    def python(self) -> Path:
        return self.folder / "bin/python"

    @property
    def headrace(self) -> Path:
        return self.folder / "bin/headrace"

    def run(self, *command: str | Path, seconds: float = 300.0) -> subprocess.CompletedProcess[str]:
        """Runs a command in it; the caller looks at the exit code."""
        return subprocess.run(
            [str(word) for word in command],
            cwd=self.folder,
            env=server_environment(),
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
        )

    def install(self, *packages: str) -> None:
        """pip install, from nothing."""
        done = self.run(self.python, "-m", "pip", "install", "-qq", "--disable-pip-version-check", *packages)
        assert done.returncode == 0, done.stdout + done.stderr


def environment_in(folder: Path) -> Environment:
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    return Environment(folder)


@pytest.fixture(scope="session")
def wheel(root: Path) -> Path:
    """The wheel, built as `make wheel` builds it."""
    done = subprocess.run([root / "scripts/setup", "wheel"], cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return root / done.stdout.strip().rsplit("\n", maxsplit=1)[-1]


@pytest.fixture(scope="session")
def bare_environment(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """The wheel and what it requires; no runtime."""
    environment = environment_in(tmp_path_factory.mktemp("bare"))
    environment.install(str(wheel))
    return environment


@pytest.fixture(scope="session")
def cpu_environment(wheel: Path, root: Path, tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """headrace[cpu] from the wheel, with protobuf 7 (the checkout's own environment has 6)."""
    environment = environment_in(tmp_path_factory.mktemp("cpu"))
    pins = (root / "requirements/constraints.txt").read_text().split("\n")
    runtime = [pin for pin in pins if pin.startswith("onnxruntime==")]
    environment.install(f"{wheel}[cpu]", "protobuf>=7,<8", *runtime)
    return environment
