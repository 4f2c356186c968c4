"""Options: where values come from, what is refused and in which words, and what the machine allows."""

import argparse
import re
from pathlib import Path

import pytest

import configuration_page
from headrace import config
from headrace.config import GIB, MIB, Config, ConfigError, Host, resolve
from headrace.sizes import memory_budgets

HOST = Host(cores=8, memory_bytes=16 * GIB)


def resolved(**flags: object) -> Config:
    return resolve(flags, host=HOST)


def test_defaults() -> None:
    found = resolved()
    assert (found.host, found.grpc_port, found.http_port, found.io_threads) == ("127.0.0.1", 8001, 8000, 1)
    assert (found.lanes, found.compute_threads) == (8, 0)
    assert (found.pool_bytes, found.process_inflight_bytes) == (8 * GIB, 4 * GIB)
    assert (found.max_request_bytes, found.connection_inflight_bytes) == (64 * MIB, 256 * MIB)
    assert (found.exit_on_error, found.strict_readiness, found.access_log) == (False, False, False)
    assert set(found.sources.values()) == {"default"}
    assert found.changed() == []


def test_file_then_environment_then_flags(tmp_path: Path) -> None:
    file = tmp_path / "headrace.toml"
    file.write_text('grpc_port = 1\nhttp_port = 2\nio_threads = 3\nmax_request_bytes = "1 MiB"\naccess_log = true\n')
    found = resolve(
        {"io_threads": "5"}, environ={"HEADRACE_HTTP_PORT": "4", "HEADRACE_IO_THREADS": "6"}, file=str(file), host=HOST
    )
    assert (found.grpc_port, found.http_port, found.io_threads) == (1, 4, 5)
    assert found.max_request_bytes == MIB
    assert found.access_log is True
    assert found.sources["grpc_port"] == f"file {file}"
    assert found.sources["http_port"] == "HEADRACE_HTTP_PORT"
    assert found.sources["io_threads"] == "--io-threads"
    assert found.sources["host"] == "default"
    assert "io_threads = 5 (--io-threads)" in found.changed()


def test_the_environment_can_name_the_file(tmp_path: Path) -> None:
    file = tmp_path / "h.toml"
    file.write_text("lanes = 2\n")
    assert resolve({}, environ={"HEADRACE_CONFIG": str(file)}, host=HOST).lanes == 2


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ({"grpc_port": "70000"}, ["grpc_port", "'70000'", "--grpc-port", "0 to 65535"]),
        ({"grpc_port": -1}, ["grpc_port", "-1", "0 to 65535"]),
        ({"io_threads": "many"}, ["io_threads", "'many'", "1 to 64"]),
        ({"io_threads": True}, ["io_threads", "True"]),
        ({"io_threads": "2 KiB"}, ["io_threads", "'2 KiB'"]),
        ({"exit_on_error": "maybe"}, ["exit_on_error", "true or false"]),
        ({"drain_seconds": "nan"}, ["drain_seconds", "0 s to 86400 s"]),
        ({"log_level": "loud"}, ["log_level", "debug, info, warning, error"]),
        ({"host": 5}, ["host", "5", "a text"]),
        ({"max_request_bytes": "3 QiB"}, ["max_request_bytes", "1 KiB"]),
        ({"grpc_prot": 1}, ["'grpc_prot'", "did you mean 'grpc_port'"]),
        ({"entirely_unlike": 1}, ["'entirely_unlike'", "--help"]),
        ({"compute_threads": 9}, ["compute_threads is 9", "8 core(s)", "--compute-threads"]),
        (
            {"max_request_bytes": "512 MiB", "connection_inflight_bytes": "1 MiB"},
            ["connection_inflight_bytes", "512 MiB"],
        ),
        ({"pool_bytes": "1 MiB"}, ["pool_bytes", "64 MiB", "--pool-bytes"]),
        ({"pool_bytes": "1 GiB", "pool_retain_bytes": "2 GiB"}, ["pool_retain_bytes", "--pool-bytes"]),
    ],
)
def test_refusals_name_key_value_and_range(flags: dict[str, object], words: list[str]) -> None:
    with pytest.raises(ConfigError) as raised:
        resolve(flags, host=HOST)
    for word in words:
        assert word in str(raised.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [("grpc_port = [1]", "grpc_port"), ("nonsense = 1", "'nonsense'"), ("grpc_port = ", "is not TOML")],
)
def test_a_file_that_is_wrong(tmp_path: Path, text: str, words: str) -> None:
    file = tmp_path / "h.toml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=words) as raised:
        resolve({}, file=str(file), host=HOST)
    assert str(file) in str(raised.value)


def test_a_file_that_is_missing(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read: No such file"):
        resolve({}, file=str(tmp_path / "none.toml"), host=HOST)


def test_derived_values_follow_what_they_are_derived_from() -> None:
    found = resolved(max_request_bytes="1 GiB", lanes=2)
    assert found.connection_inflight_bytes == found.max_queue_bytes == 4 * GIB
    assert (found.lanes, found.compute_threads) == (2, 0)
    small = resolve({}, host=Host(1, 100 * MIB))  # a small machine starts with the defaults all the same
    assert small.process_inflight_bytes == 128 * MIB
    assert (small.lanes, small.compute_threads) == (1, 0)


def test_an_unknown_variable_is_a_warning_and_what_kubernetes_sets_is_not() -> None:
    environ = {
        "HEADRACE_GRPC_PROT": "1",
        "HEADRACE_SERVICE_HOST": "10.0.0.1",
        "HEADRACE_SERVICE_PORT_GRPC": "8001",
        "HEADRACE_PORT": "tcp://10.0.0.1:8001",
        "HEADRACE_PORT_8001_TCP_ADDR": "10.0.0.1",
        "PATH": "/bin",
    }
    warnings = resolve({}, environ=environ, host=HOST).warnings
    assert len(warnings) == 1
    assert "HEADRACE_GRPC_PROT" in warnings[0]


def test_every_option_has_a_flag_with_its_default_and_what_full_means() -> None:
    parser = argparse.ArgumentParser(prog="x")
    config.add_arguments(parser)
    shown = " ".join(parser.format_help().split())
    table = configuration_page.table()
    for option in config.OPTIONS:
        assert option.flag in shown
        assert f"`{option.flag}`" in table
        assert f"`{option.variable}`" in table
        assert not option.full or option.full in table
    assert "64 MiB" in shown
    assert "25 % of the memory limit" in shown


def test_flags_come_out_as_text_and_only_those_given() -> None:
    parser = argparse.ArgumentParser()
    config.add_arguments(parser)
    assert vars(parser.parse_args([])) == {}
    given = vars(parser.parse_args(["--exit-on-error", "--strict-readiness=false", "--lanes", "2"]))
    found = resolve(given, host=HOST)
    assert (found.exit_on_error, found.strict_readiness, found.lanes) == (True, False, 2)


def write(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


MEMINFO = {"proc/meminfo": "MemTotal:       8388608 kB\nMemFree: 1 kB\n"}


def test_host_without_cgroups(tmp_path: Path) -> None:
    write(tmp_path, MEMINFO)
    found = Host.detect(str(tmp_path))
    assert found.memory_bytes == 8 * GIB
    assert found.cores >= 1


def test_host_under_cgroup_2_takes_the_tightest_of_all_levels(tmp_path: Path) -> None:
    group = "sys/fs/cgroup/kubepods/pod1"
    write(
        tmp_path,
        {
            **MEMINFO,
            "proc/self/cgroup": "0::/kubepods/pod1/c1\n",
            f"{group}/memory.max": f"{2 * GIB}\n",
            f"{group}/c1/memory.max": "max\n",
            f"{group}/c1/cpu.max": "max 100000\n",
            f"{group}/cpu.max": "150000 100000\n",
        },
    )
    assert Host.detect(str(tmp_path)) == Host(cores=1, memory_bytes=2 * GIB)


def test_host_in_a_container_of_cgroup_1(tmp_path: Path) -> None:
    # /proc shows the host's path, which the container's mount does not have.
    write(
        tmp_path,
        {
            **MEMINFO,
            "proc/self/cgroup": "4:memory:/docker/abc\n2:cpu,cpuacct:/docker/abc\n0::/\n",
            "sys/fs/cgroup/memory/memory.limit_in_bytes": f"{GIB}\n",
            "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "50000\n",
            "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
        },
    )
    assert Host.detect(str(tmp_path)) == Host(cores=1, memory_bytes=GIB)


def test_no_limit_in_cgroup_1_is_a_huge_number(tmp_path: Path) -> None:
    write(
        tmp_path,
        {
            **MEMINFO,
            "proc/self/cgroup": "4:memory:/\n2:cpu:/\n",
            "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n",
            "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n",
            "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
        },
    )
    assert Host.detect(str(tmp_path)).memory_bytes == 8 * GIB


def test_lists_come_from_flags_the_environment_and_the_file(tmp_path: Path) -> None:
    explicit = {"model_control_mode": "explicit"}
    assert resolve({**explicit, "load_model": ["a", "b"]}, host=HOST).load_model == ("a", "b")
    assert resolve(explicit, environ={"HEADRACE_LOAD_MODEL": "a  b"}, host=HOST).load_model == ("a", "b")
    file = tmp_path / "c.toml"
    file.write_text('load_model = ["a", "b"]')
    assert resolve(explicit, file=str(file), host=HOST).load_model == ("a", "b")
    file.write_text("load_model = [1]")
    with pytest.raises(ConfigError, match="load_model is"):
        resolve(explicit, file=str(file), host=HOST)


def test_patterns_that_are_none() -> None:
    for name in ("grpc_header_forward_pattern", "http_header_forward_pattern"):
        assert getattr(resolved(**{name: "(?-i)x-.*"}), name) == "(?-i)x-.*"
        flag = "--" + name.replace("_", "-")
        with pytest.raises(
            ConfigError, match=rf"^{name} is '\[', which is no regular expression \(.+\): correct {flag}\.$"
        ):
            resolve({name: "["}, host=HOST)


def test_control_modes_that_cannot_be() -> None:
    with pytest.raises(ConfigError, match="poll, which is not built yet"):
        resolve({"model_control_mode": "poll"}, host=HOST)
    with pytest.raises(ConfigError, match="in mode explicit only"):
        resolve({"load_model": ["m"]}, host=HOST)


def test_resources_have_a_meaning_with_the_rate_limiter_only() -> None:
    with pytest.raises(ConfigError, match="no meaning without --rate-limit execution_count: add it"):
        resolve({"rate_limit_resource": ["r:1"]}, host=HOST)
    with pytest.raises(ConfigError, match=r"rate_limit_resource has 'r': give NAME:COUNT"):
        resolve({"rate_limit": "execution_count", "rate_limit_resource": ["r"]}, host=HOST)


def test_memory_budgets_name_their_device() -> None:
    host = config.Host(cores=2, memory_bytes=8 * config.GIB)
    assert memory_budgets(resolve({}, host=host).model_memory_budget)["cpu"] == 6 * config.GIB
    for words in (("2GiB",), ("cpu=2GiB",), "2GiB"):
        assert (
            memory_budgets(config.resolve({"model_memory_budget": words}, host=host).model_memory_budget)["cpu"]
            == 2 * config.GIB
        )


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ("cuda:0=2GiB", "names the device 'cuda:0'; there is: cpu"),
        ("1GiB cpu=2GiB", "two budgets of the device cpu"),
        ("cpu=", "give 1 MiB to"),
        ("much", "give 1 MiB to"),
        ("1KiB", "give 1 MiB to"),
        ("", "is empty"),
    ],
)
def test_a_memory_budget_that_cannot_be(words: str, reason: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(reason)):
        config.resolve({"model_memory_budget": words}, host=config.Host(cores=2, memory_bytes=8 * config.GIB))
