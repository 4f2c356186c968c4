"""The wheel serves from an empty environment outside of the checkout, and says what is missing when it cannot."""

import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import tritonclient.grpc as triton

from e2e.conftest import Environment
from server_process import ServerProcess


def test_the_wheel_holds_what_it_needs(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    for wanted in ("headrace/_core.", "headrace/_core.pyi", "headrace/_proto/descriptors.binpb", "headrace/py.typed"):
        assert any(name.startswith(wanted) for name in names), f"{wanted} is not in {names}"
    assert any(name.startswith("headrace.libs/libnghttp2") for name in names), "nghttp2 is not bundled"
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert any(name.endswith("licenses/THIRD_PARTY_NOTICES.md") for name in names)
    assert not any(name.startswith(("tests/", "csrc/", "build/")) for name in names)


def test_without_a_runtime_it_says_what_to_install(
    bare_environment: Environment, repository: Callable[..., Path], magika_model: Path
) -> None:
    models = repository(magika=magika_model)
    ended = bare_environment.run(
        *(bare_environment.headrace, "serve", "--model-repository", models, "--grpc-port", "0", "--http-port", "0")
    )
    assert ended.returncode not in (0, None)
    assert "pip install headrace[cpu]" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_it_serves_a_model_outside_of_the_checkout(
    cpu_environment: Environment, repository: Callable[..., Path], magika_model: Path, root: Path
) -> None:
    models = repository(magika=magika_model)
    told = cpu_environment.run(cpu_environment.headrace, "--version")
    assert told.stdout.startswith("headrace "), told.stderr
    where = cpu_environment.run(cpu_environment.python, "-c", "import headrace; print(headrace.__file__)")
    assert not Path(where.stdout.strip()).is_relative_to(root)

    with ServerProcess(models, command=[str(cpu_environment.headrace)]) as server:
        libraries = Path(f"/proc/{server.process.pid}/maps").read_text()
        assert "headrace.libs/libnghttp2" in libraries, "the system's nghttp2 was loaded, not the wheel's"
        rows = np.full((3, 2048), 256, dtype=np.int32)
        rows[:, :64] = np.arange(3)[:, None] + np.arange(64)
        given = triton.InferInput("bytes", [3, 2048], "INT32")
        given.set_data_from_numpy(rows)
        with triton.InferenceServerClient(server.grpc) as client:
            scores = client.infer("magika", [given]).as_numpy("target_label")
        assert scores.shape == (3, 214)
        np.testing.assert_allclose(scores.sum(axis=1), 1.0, atol=1e-3)
        assert server.stop() == 0
