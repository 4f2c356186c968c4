"""The command as an operator meets it: what it prints, its exit codes, and how it ends."""

import contextlib
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import tomllib
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from grpc import StatusCode
from tritonclient.grpc import service_pb2

from e2e.clients import SECONDS, answer_of, request, stub
from headrace.config import OPTIONS
from server_process import ServerProcess, server_command, server_environment

Serve = Callable[..., ServerProcess]
Repository = Callable[..., Path]
FOREVER = 1 << 40  # iterations of `slow`: it runs until it is cancelled


def run(*words: str | Path, command: Sequence[str] = (), **environment: str) -> subprocess.CompletedProcess[str]:
    """The command, to its end."""
    return subprocess.run(
        [*(command or server_command()), *map(str, words)],
        env={**server_environment(), **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=SECONDS * 2,
        check=False,
    )


def serve_run(repository: Path | str, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """`headrace serve` where it is expected to end by itself."""
    return run("serve", "--model-repository", repository, *_free_ports(words), *words, command=(), **environment)


def _free_ports(words: tuple[str, ...]) -> list[str]:
    return [word for flag in ("--grpc-port", "--http-port") if flag not in words for word in (flag, "0")]


def assert_start_error(ended: subprocess.CompletedProcess[str], *words: str) -> None:
    """Exit code 2, and the last line says why; nothing that a person would have to decipher."""
    assert ended.returncode == 2, ended.stderr
    assert ended.stdout == ""
    assert "Traceback" not in ended.stderr
    last = ended.stderr.strip().splitlines()[-1]
    assert last.startswith("headrace: ")
    for word in words:
        assert word in last


@pytest.fixture
def mlp(repository: Repository, models: Path) -> Path:
    """A repository with one good model."""
    return repository(mlp=models / "mlp.onnx")


@pytest.fixture
def taken() -> Iterator[int]:
    """A port that somebody else listens on."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield int(listening.getsockname()[1])


# --- Without serving -------------------------------------------------------------------------------------------------


def test_version(root: Path) -> None:
    version = tomllib.loads((root / "pyproject.toml").read_text())["project"]["version"]
    told = run("--version")
    assert (told.returncode, told.stdout, told.stderr) == (0, f"headrace {version}\n", "")


def test_help() -> None:
    told = run("--help")
    assert told.returncode == 0
    for word in ("serve", "check", "--version"):
        assert word in told.stdout
    told = run("serve", "--help")
    assert told.returncode == 0
    flags = set(re.findall(r"--[a-z-]+", told.stdout))
    assert {option.flag for option in OPTIONS} | {"--config"} <= flags
    assert {option.group for option in OPTIONS} <= set(re.findall(r"^(\w+):$", told.stdout, re.MULTILINE))


def test_no_command_and_unknown_words() -> None:
    for words in ([], ["dance"], ["serve", "--no-such-flag"], ["check"]):
        told = run(*words)
        assert told.returncode == 2
        assert told.stderr.startswith("usage: headrace")
        assert "Traceback" not in told.stderr


def test_check_of_a_good_repository(repository: Repository, models: Path, magika_model: Path) -> None:
    folder = repository(mlp=models / "mlp.onnx", magika=magika_model, fixed=models / "twice_fp32_fixed.onnx")
    (folder / "mlp/config.pbtxt").write_text("max_batch_size: 8")
    told = run("check", folder)
    assert told.returncode == 0, told.stderr
    lines = told.stdout.splitlines()
    assert lines[0].split() == ["MODEL", "VERSION", "BACKEND", "DEVICE", "BATCHING"]
    rules = {line.split()[0]: line.split(maxsplit=4)[1:] for line in lines[1:4]}
    assert {tuple(rule[:3]) for rule in rules.values()} == {("1", "onnxruntime", "CPU")}
    assert "max_batch_size: 8 without dynamic_batching" in rules["mlp"][3]
    assert "max_batch_size 32 and dynamic batching by default" in rules["magika"][3]
    assert rules["fixed"][3].startswith("not batched: ")
    assert lines[-1] == "3 of 3 model version(s) would be served."


def test_check_of_a_repository_with_a_broken_model(repository: Repository, models: Path) -> None:
    folder = repository(mlp=models / "mlp.onnx", zipmap=models / "zipmap.onnx", bad=models / "corrupt.onnx")
    told = run("check", folder)
    assert told.returncode == 1
    assert re.search(r"^zipmap +1 +- +- +NOT SERVED: .*zipmap=False", told.stdout, re.MULTILINE)
    assert re.search(r"^bad +1 +- +- +NOT SERVED: .*model\.onnx", told.stdout, re.MULTILINE)
    assert re.search(r"^mlp +1 +onnxruntime +CPU ", told.stdout, re.MULTILINE)
    assert told.stdout.splitlines()[-1] == "1 of 3 model version(s) would be served."
    assert "Traceback" not in told.stderr


def test_check_of_no_repository(tmp_path: Path) -> None:
    assert_start_error(run("check", tmp_path / "missing"), str(tmp_path / "missing"), "No such file or directory")
    assert_start_error(run("check", tmp_path), str(tmp_path), "no model")


# --- Start errors ----------------------------------------------------------------------------------------------------


def test_a_port_in_use(mlp: Path, taken: int) -> None:
    for flag in ("--grpc-port", "--http-port"):
        assert_start_error(serve_run(mlp, flag, str(taken)), f"Port {taken}", "127.0.0.1", "taken", flag)


def test_an_address_that_is_not_ours(mlp: Path) -> None:
    assert_start_error(serve_run(mlp, "--host", "no.such.host.invalid"), "no.such.host.invalid", "--host")
    assert_start_error(serve_run(mlp, "--host", "192.0.2.1"), "192.0.2.1", "cannot listen")


def test_no_repository(tmp_path: Path, models: Path) -> None:
    assert_start_error(run("serve", "--grpc-port", "0", "--http-port", "0"), "--model-repository")
    assert_start_error(serve_run(tmp_path / "missing"), "missing", "No such file", "--model-repository")
    assert_start_error(serve_run(models / "mlp.onnx"), "mlp.onnx", "Not a directory", "--model-repository")
    (tmp_path / "README.md").write_text("Nothing to serve.")
    assert_start_error(serve_run(tmp_path), str(tmp_path), "no model", "<model>/1/model.onnx")


def test_no_model_that_can_be_read(repository: Repository, models: Path) -> None:
    folder = repository(bad=models / "corrupt.onnx")
    assert_start_error(serve_run(folder), "No model can be served", "'bad'", "bad/1/model.onnx")


def test_no_runtime(mlp: Path) -> None:
    """As on a machine where nobody has installed one."""
    hidden = "import sys; sys.modules['onnxruntime'] = None; from headrace.cli import main; sys.exit(main())"
    words = ("serve", "--model-repository", mlp, "--grpc-port", "0", "--http-port", "0")
    assert_start_error(run(*words, command=[sys.executable, "-c", hidden]), "pip install headrace[cpu]")


@pytest.mark.parametrize(
    ("flag", "value", "words"),
    [
        ("--grpc-port", "70000", ("grpc_port", "70000", "0 to 65535")),
        ("--lanes", "many", ("lanes", "many", "1 to 1024")),
        ("--lanes", "0", ("lanes", "0", "1 to 1024")),
        ("--max-request-bytes", "5 parsecs", ("max_request_bytes", "5 parsecs")),
        ("--max-request-bytes", "-1", ("max_request_bytes", "-1")),
        ("--drain-seconds", "-1", ("drain_seconds", "-1", "0 s")),
        ("--drain-seconds", "nan", ("drain_seconds", "nan")),
        ("--log-level", "loud", ("log_level", "loud", "debug, info, warning, error")),
        ("--exit-on-error", "perhaps", ("exit_on_error", "perhaps", "true or false")),
    ],
)
def test_a_value_that_cannot_be(mlp: Path, flag: str, value: str, words: tuple[str, ...]) -> None:
    assert_start_error(serve_run(mlp, f"{flag}={value}"), flag, *words)


def test_more_threads_than_cores(mlp: Path) -> None:
    ended = serve_run(mlp, "--lanes", "512", "--compute-threads", "512")
    assert_start_error(ended, "lanes is 512", "core(s)", "--lanes")


def test_limits_that_contradict_each_other(mlp: Path) -> None:
    ended = serve_run(mlp, "--max-request-bytes", "64MiB", "--pool-bytes", "1MiB")
    assert_start_error(ended, "pool_bytes", "--pool-bytes", "64 MiB")


def test_configuration_files(mlp: Path, tmp_path: Path) -> None:
    file = tmp_path / "headrace.toml"
    file.write_text("lane = 1\n")
    assert_start_error(serve_run(mlp, "--config", str(file)), "lane", "lanes", str(file))
    file.write_text("lanes = [1]\n")
    assert_start_error(serve_run(mlp, "--config", str(file)), "lanes", "[1]", str(file))
    file.write_text("lanes: 1\n")
    assert_start_error(serve_run(mlp, "--config", str(file)), str(file), "TOML")
    assert_start_error(serve_run(mlp, "--config", str(tmp_path / "none.toml")), "none.toml", "No such file")
    assert_start_error(serve_run(mlp, HEADRACE_LANES="x"), "HEADRACE_LANES", "lanes", "'x'")
    assert_start_error(serve_run(mlp, HEADRACE_CONFIG=str(tmp_path / "none.toml")), "none.toml")


# --- Serving ---------------------------------------------------------------------------------------------------------


def test_what_the_start_prints(repository: Repository, models: Path, tmp_path: Path) -> None:
    folder = repository(mlp=models / "mlp.onnx", bad=models / "corrupt.onnx")
    file = tmp_path / "headrace.toml"
    file.write_text('lanes = 7\nlog_level = "error"\nhost = "localhost"\ndrain_seconds = 9\n')
    environment = {**server_environment(), "HEADRACE_LANES": "8", "HEADRACE_LOG_LEVEL": "debug", "HEADRACE_LANS": "1"}
    flags = ("--config", str(file), "--lanes", "1", "--compute-threads", "1", "--io-threads", "2")
    with ServerProcess(folder, *flags, environment=environment) as server:
        told = server.output()
        assert re.search(r"^mlp +1 +onnxruntime +CPU +no config says; .*dynamic batching by default$", told, re.M)
        assert re.search(r"^bad +1 +- +- +NOT SERVED: ", told, re.MULTILINE)
        assert re.search(r"^1 lane\(s\) and 2 event loop\(s\) on \d+ core\(s\)$", told, re.M)
        for line in (
            "lanes = 1 (--lanes)",
            "log_level = debug (HEADRACE_LOG_LEVEL)",
            f"drain_seconds = 9 s (file {file})",
        ):
            assert line in told
        assert re.search(r"WARNING headrace: .*HEADRACE_LANS", told)
        assert server.grpc.startswith("localhost:")
        assert server.stop() == 0


def test_the_table_goes_to_stdout_and_the_log_to_stderr(mlp: Path, tmp_path: Path) -> None:
    words = ["serve", "--model-repository", str(mlp), "--grpc-port", "0", "--http-port", "0"]
    out, err = tmp_path / "out", tmp_path / "err"
    with out.open("w") as stdout, err.open("w") as stderr:
        process = subprocess.Popen(
            [*server_command(), *words],
            stdout=stdout,
            stderr=stderr,
            stdin=subprocess.DEVNULL,
            env=server_environment(),
        )
        try:
            until(lambda: "ready\n" in out.read_text() or process.poll() is not None)
            process.send_signal(signal.SIGINT)
            assert process.wait(SECONDS) == 0
        finally:
            process.kill()
            process.wait()
    assert out.read_text().splitlines()[0].startswith("MODEL ")
    assert out.read_text().splitlines()[-1] == "ready"
    for line in err.read_text().splitlines():
        assert re.match(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z (DEBUG|INFO|WARNING|ERROR) headrace", line), line


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline, "it did not come to that in time"
        time.sleep(0.01)


def slow_call(server: ServerProcess, channel: grpc.Channel, iterations: int) -> Any:
    """A call that is in the server, for as long as so many iterations take."""
    calls = stub(channel)
    call = calls.ModelInfer.future(request("slow", {"iterations": np.array([[iterations]], np.int64)}))
    # Calls on one connection arrive in order.
    assert calls.ServerLive(service_pb2.ServerLiveRequest(), timeout=SECONDS).live
    assert server.process.poll() is None
    return call


def test_it_writes_nothing_that_nobody_asked_for(mlp: Path, tmp_path: Path) -> None:
    """The runtime would keep records of what it ran in the home folder, and send them to its maker."""
    home = tmp_path / "home"
    home.mkdir()
    environment = {**server_environment(), "HOME": str(home), "XDG_CACHE_HOME": str(home / "cache")}
    with ServerProcess(mlp, environment=environment) as server:
        with grpc.insecure_channel(server.grpc) as channel:
            stub(channel).ModelInfer(request("mlp", {"x": np.zeros((1, 64), np.float32)}), timeout=SECONDS)
        links: list[Path] = []
        for link in Path(f"/proc/{server.process.pid}/fd").iterdir():
            with contextlib.suppress(FileNotFoundError):  # closed since it was listed
                links.append(link.readlink())
        files = {str(path) for path in links if path.is_absolute() and path.is_file()}
        assert {Path(path).suffix for path in files} <= {".log"}, files
        assert server.stop() == 0
    assert list(home.rglob("*")) == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_cleanly(serve: Serve, mlp: Path, number: signal.Signals) -> None:
    server = serve(mlp)
    with grpc.insecure_channel(server.grpc) as channel:
        x = np.zeros((3, 64), np.float32)
        assert answer_of(stub(channel).ModelInfer(request("mlp", {"x": x}), timeout=SECONDS))["logits"].shape == (3, 10)
        server.process.send_signal(number)
        assert server.wait(SECONDS) == 0
    told = server.output()
    assert f"{number.name}: shutting down" in told
    assert "memory pool at the end: 0 bytes in 0 blocks in use" in told


def test_a_signal_while_models_load(repository: Repository, magika_model: Path) -> None:
    folder = repository(m0=magika_model)
    for number in range(1, 40):
        shutil.copytree(folder / "m0", folder / f"m{number}")
    server = ServerProcess(folder, "--model-load-thread-count", "1")
    process = subprocess.Popen(
        server.arguments, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=server_environment()
    )
    try:
        assert process.stderr is not None
        first = process.stderr.readline()
        assert " loaded in " in first
        process.send_signal(signal.SIGTERM)
        out, _ = process.communicate(timeout=SECONDS)
        assert process.returncode == 0
        assert out == "", "it never was ready"
    finally:
        process.kill()
        process.wait()


def test_what_is_in_flight_at_the_signal_is_answered(serve: Serve, repository: Repository, models: Path) -> None:
    server = serve(repository(slow=models / "slow.onnx", mlp=models / "mlp.onnx"), "--compute-threads", "1")
    with grpc.insecure_channel(server.grpc) as channel:
        calls = [slow_call(server, channel, 4000) for _ in range(4)]
        server.process.send_signal(signal.SIGTERM)
        for call in calls:
            assert answer_of(call.result(SECONDS))["y"].tolist() == [[4000.0]]
    assert server.wait(SECONDS) == 0
    assert "0 bytes in 0 blocks in use" in server.output()


def test_drain_delay_serves_on_without_being_ready(serve: Serve, mlp: Path) -> None:
    server = serve(mlp, "--drain-delay", "4")
    with grpc.insecure_channel(server.grpc) as channel:
        calls = stub(channel)
        assert calls.ServerReady(service_pb2.ServerReadyRequest(), timeout=SECONDS).ready
        server.process.send_signal(signal.SIGTERM)
        until(lambda: not calls.ServerReady(service_pb2.ServerReadyRequest(), timeout=SECONDS).ready)
        with pytest.raises(urllib.error.HTTPError, match="503"):
            urllib.request.urlopen(f"http://{server.http}/v2/health/ready", timeout=SECONDS)
        assert calls.ServerLive(service_pb2.ServerLiveRequest(), timeout=SECONDS).live
        x = np.zeros((1, 64), np.float32)
        with grpc.insecure_channel(server.grpc) as fresh:  # a balancer may not know yet
            assert len(stub(fresh).ModelInfer(request("mlp", {"x": x}), timeout=SECONDS).outputs) == 1
    assert server.wait(SECONDS) == 0


def test_calls_that_outlive_the_drain_time_get_unavailable(serve: Serve, repository: Repository, models: Path) -> None:
    server = serve(repository(slow=models / "slow.onnx"), "--drain-seconds", "0.5")
    with grpc.insecure_channel(server.grpc) as channel:
        call = slow_call(server, channel, FOREVER)
        server.process.send_signal(signal.SIGTERM)
        error = call.exception(SECONDS)
        assert error.code() is StatusCode.UNAVAILABLE
        assert "--drain-seconds" in error.details()
    assert server.wait(SECONDS) == 1
    assert "1 call(s) did not end in 0.5 s and got UNAVAILABLE" in server.output()
    assert "0 bytes in 0 blocks in use" in server.output()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_ends_it_at_once(
    serve: Serve, repository: Repository, models: Path, number: signal.Signals
) -> None:
    server = serve(repository(slow=models / "slow.onnx"), "--drain-seconds", "3600")
    with grpc.insecure_channel(server.grpc) as channel:
        call = slow_call(server, channel, FOREVER)
        server.process.send_signal(signal.SIGTERM)
        server.wait_for_output(r"draining: ", SECONDS)
        assert not call.done()
        server.process.send_signal(number)
        assert server.wait(SECONDS) == 1
        assert f"headrace: second signal ({number.name}), ending at once" in server.output()


# --- The access log --------------------------------------------------------------------------------------------------

LINE = re.compile(
    r"INFO headrace\.access: peer=127\.0\.0\.1:\d+ path=/inference\.GRPCInferenceService/ModelInfer model=(\S*) "
    r"version=(\S*) id=(.*) code=(\d+) request_bytes=(\d+) response_bytes=(\d+) rows=(\d+) batch_rows=(\d+) "
    r"queue_us=(\d+) compute_us=(\d+) total_us=(\d+)$",
    re.MULTILINE,
)


def test_access_log(serve: Serve, mlp: Path) -> None:
    server = serve(mlp, "--access-log", "--log-level", "error")
    x = np.zeros((3, 64), np.float32)
    with grpc.insecure_channel(server.grpc) as channel:
        infer = stub(channel).ModelInfer
        sent = request("mlp", {"x": x}, id="plain-1")
        got = infer(sent, timeout=SECONDS)
        infer(request("mlp", {"x": x}, id='two\nlines code=0 "'), timeout=SECONDS)
        with pytest.raises(grpc.RpcError):
            infer(request("nothing", {"x": x}, id="bad"), timeout=SECONDS)
    assert server.stop() == 0
    lines = [match.groups() for match in LINE.finditer(server.output())]
    assert [line[:4] for line in lines[:2]] == [
        ("mlp", "1", "plain-1", "0"),
        ("mlp", "1", '"two\\nlines code=0 \\""', "0"),
    ]
    refused = request("nothing", {"x": x}, id="bad")
    assert [line[:5] for line in lines[2:]] == [("nothing", "", "bad", "5", str(len(refused.SerializeToString())))]
    sizes, timing = [int(text) for text in lines[0][4:8]], [int(text) for text in lines[0][8:]]
    assert sizes == [len(sent.SerializeToString()), len(got.SerializeToString()), 3, 3]
    assert timing[2] >= timing[0] + timing[1]


def test_no_access_log_by_default(serve: Serve, mlp: Path) -> None:
    server = serve(mlp)
    with grpc.insecure_channel(server.grpc) as channel:
        stub(channel).ModelInfer(request("mlp", {"x": np.zeros((1, 64), np.float32)}), timeout=SECONDS)
    assert server.stop() == 0
    assert "headrace.access" not in server.output()
