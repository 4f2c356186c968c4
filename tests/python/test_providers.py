"""The chain of providers that config.pbtxt and `--device` ask for."""

from pathlib import Path
from typing import Any

import pytest
from google.protobuf import text_format

from headrace import _proto, config, providers

HOST = config.Host(cores=8, memory_bytes=8 * config.GIB)
ON_GPU = "instance_group { kind: KIND_GPU } "
TENSORRT = 'optimization { execution_accelerators { gpu_execution_accelerator { name: "tensorrt" %s } } } '


def chain(text: str = "", **flags: Any) -> tuple[list[providers.Provider], list[str]]:
    message = text_format.Parse(text, _proto.ModelConfig(), descriptor_pool=_proto.POOL)
    warnings: list[str] = []
    found = providers.chain(
        message,
        config.resolve(flags, host=HOST),
        ValueError,
        lambda field, why: warnings.append(f"{field}: {why}"),
    )
    return found, warnings


def test_by_default_cuda_is_taken_and_not_missed() -> None:
    assert chain() == ([providers.Provider("cuda", {"device_id": "0"}, asked_for=False)], [])
    assert chain("instance_group { count: 2 }")[0][0].asked_for is False


def test_the_device_flag_says_where_models_run_that_do_not_say() -> None:
    assert chain(device="cpu") == ([], [])
    assert chain(device="cuda") == ([providers.Provider("cuda", {"device_id": "0"}, asked_for=True)], [])
    assert chain(device="cuda:3")[0][0].options == {"device_id": "3"}
    with pytest.raises(config.ConfigError, match="device is 'gpu': give auto, cpu, cuda or cuda:N"):
        chain(device="gpu")


@pytest.mark.parametrize(
    ("text", "device"),
    [
        (ON_GPU, "0"),
        ("instance_group { kind: KIND_GPU gpus: [ 2 ] }", "2"),
        ("instance_group { gpus: [ 1 ] }", "1"),
    ],
)
def test_a_group_of_gpus_asks_for_one(text: str, device: str) -> None:
    assert chain(text, device="cpu") == ([providers.Provider("cuda", {"device_id": device}, asked_for=True)], [])


def test_a_group_of_the_cpu_keeps_the_model_there() -> None:
    assert chain("instance_group { kind: KIND_CPU }", device="cuda") == ([], [])


def devices(text: str, **flags: Any) -> list[tuple[str, int]]:
    """Of each device its GPU's number, "cpu" for none, and its lanes."""
    message = text_format.Parse(text, _proto.ModelConfig(), descriptor_pool=_proto.POOL)
    found = providers.devices(message, config.resolve(flags, host=HOST), ValueError, lambda field, why: None)
    return [(device.chain[-1].options["device_id"] if device.chain else "cpu", device.lanes) for device in found]


def test_each_group_is_a_device_with_lanes_of_its_own() -> None:
    assert devices("") == [("0", 0)]
    assert devices("", device="cpu") == [("cpu", 0)]
    both = "instance_group [ { kind: KIND_GPU gpus: [ 0, 1 ] count: 2 }, { kind: KIND_CPU count: 3 } ]"
    assert devices(both) == [("0", 2), ("1", 2), ("cpu", 3)]
    assert devices("instance_group [ { gpus: [ 3, 1 ] }, { kind: KIND_CPU } ]") == [("3", 0), ("1", 0), ("cpu", 1)]
    again = "instance_group [ { kind: KIND_CPU }, { kind: KIND_GPU }, { kind: KIND_CPU count: 2 } ]"
    assert devices(again) == [("cpu", 3), ("0", 0)]
    assert devices("instance_group [ { count: 2 }, { kind: KIND_GPU gpus: [ 1 ] } ]") == [("1", 2)]
    with pytest.raises(ValueError, match="GPUs are counted from 0"):
        devices("instance_group { gpus: [ -1 ] }")


def test_every_gpu_has_the_accelerators() -> None:
    text = "instance_group [ { gpus: [ 1, 2 ] }, { kind: KIND_CPU } ] " + TENSORRT % ""
    message = text_format.Parse(text, _proto.ModelConfig(), descriptor_pool=_proto.POOL)
    found = providers.devices(message, config.resolve({}, host=HOST), ValueError, lambda field, why: None)
    assert [[provider.name for provider in device.chain] for device in found] == [["tensorrt", "cuda"]] * 2 + [[]]
    assert [device.chain[0].options["device_id"] for device in found[:2]] == ["1", "2"]


def test_tensorrt_stands_before_cuda_and_takes_tritons_words() -> None:
    parameters = """
        parameters { key: "precision_mode" value: "fp16" }
        parameters { key: "max_workspace_size_bytes" value: "1024" }
        parameters { key: "trt_cuda_graph_enable" value: "False" }
    """
    found, warnings = chain(ON_GPU + TENSORRT % parameters)
    assert warnings == []
    assert [provider.name for provider in found] == ["tensorrt", "cuda"]
    assert found[0].options == {
        "device_id": "0",
        "trt_fp16_enable": "1",
        "trt_max_workspace_size": "1024",
        "trt_cuda_graph_enable": "0",
    }
    with pytest.raises(ValueError, match="precision_mode is 'FP8': it must be one of FP32, FP16, BF16, INT8"):
        chain(ON_GPU + TENSORRT % 'parameters { key: "precision_mode" value: "FP8" }')


def test_every_parameter_of_tensorrt_is_known_or_refused() -> None:
    parameters = """
        parameters { key: "precision_mode" value: "BF16" }
        parameters { key: "int8_calibration_table_name" value: "table" }
        parameters { key: "int8_use_native_calibration_table" value: "false" }
        parameters { key: "trt_engine_cache_enable" value: "True" }
        parameters { key: "trt_engine_cache_path" value: "/engines" }
    """
    assert chain(ON_GPU + TENSORRT % parameters)[0][0].options == {
        "device_id": "0",
        "trt_bf16_enable": "1",
        "trt_int8_calibration_table_name": "table",
        "trt_int8_use_native_calibration_table": "0",
        "trt_engine_cache_enable": "1",
        "trt_engine_cache_path": "/engines",
    }
    with pytest.raises(ValueError, match="tensorrt has no parameter 'fp16': it knows precision_mode, max_workspace"):
        chain(ON_GPU + TENSORRT % 'parameters { key: "fp16" value: "1" }')


GRAPH = "a CUDA graph reads and writes the same addresses in every run.* its answers would be wrong: remove it, or set"
ADDRESS = "is about addresses in the server's memory, which no config may say: remove it"


@pytest.mark.parametrize("name", ["tensorrt", "cuda"])
@pytest.mark.parametrize(
    ("key", "value", "why"),
    [
        *((key, value, GRAPH) for key in ("enable_cuda_graph", "trt_cuda_graph_enable") for value in ("1", "Yes", "")),
        ("do_copy_in_default_stream", "0", "copies that do not wait for what they copy make answers wrong"),
        ("user_compute_stream", "140230000000", ADDRESS),
        ("has_user_compute_stream", "1", ADDRESS),
        ("gpu_external_alloc", "0", ADDRESS),
        ("gpu_external_free", "94000000", ADDRESS),
        ("gpu_external_empty_cache", "94000000", ADDRESS),
        ("trt_extra_plugin_lib_paths", "/tmp/plugin.so", "may not name code to be run: .*LD_PRELOAD"),
        ("trt_engine_decryption_lib_path", "/tmp/key.so", "may not name code to be run: encrypted engines cannot"),
        ("trt_onnx_bytestream", "94000000", ADDRESS),
        ("trt_onnx_bytestream_size", "64", ADDRESS),
        ("trt_external_data_bytestream", "94000000", ADDRESS),
        ("trt_external_data_bytestream_size", "64", ADDRESS),
    ],
)
def test_what_no_session_here_may_have_is_refused(name: str, key: str, value: str, why: str) -> None:
    text = ON_GPU + TENSORRT.replace("tensorrt", name) % f'parameters {{ key: "{key}" value: "{value}" }}'
    with pytest.raises(ValueError, match=f"{name}'s {key} is .*{why.removeprefix('is ')}"):
        chain(text)
    if name == "tensorrt":
        with pytest.raises(ValueError, match=f"{name}'s {key} is "):
            plan(text)


def test_what_they_say_by_default_may_be_said() -> None:
    parameters = """
        parameters { key: "enable_cuda_graph" value: "false" }
        parameters { key: "do_copy_in_default_stream" value: "True" }
        parameters { key: "gpu_mem_limit" value: "1024" }
    """
    assert chain(ON_GPU + TENSORRT.replace("tensorrt", "cuda") % parameters)[0][0].options == {
        "device_id": "0",
        "enable_cuda_graph": "0",
        "do_copy_in_default_stream": "1",
        "gpu_mem_limit": "1024",
    }


def test_engines_of_two_files_lie_apart() -> None:
    server = config.resolve({"cache_dir": "/var/cache/headrace"}, host=HOST)
    options = chain(ON_GPU + TENSORRT % "", cache_dir="/var/cache/headrace")[0][0].options
    kept = providers.kept_apart(options, server, "m-1-abc")
    assert kept["trt_engine_cache_path"] == kept["trt_timing_cache_path"] == "/var/cache/headrace/tensorrt/m-1-abc"
    assert kept["device_id"] == "0"
    assert providers.cache_folders(kept, server) == {Path("/var/cache/headrace/tensorrt/m-1-abc")}
    own = {"trt_engine_cache_path": "/engines"}  # as config.pbtxt says it
    assert providers.kept_apart(own, server, "m-1-abc") == own
    assert providers.cache_folders(own, server) == set()
    assert providers.cache_folders(own, config.resolve({}, host=HOST)) == set()


def plan(text: str = "", **flags: Any) -> tuple[providers.Provider, list[str]]:
    message = text_format.Parse(text, _proto.ModelConfig(), descriptor_pool=_proto.POOL)
    warnings: list[str] = []
    server = config.resolve(flags, host=HOST)
    return providers.plan_provider(message, server, ValueError, lambda field, why: warnings.append(field)), warnings


def test_a_plan_runs_on_its_gpu_and_nowhere_else() -> None:
    assert plan() == (providers.Provider("tensorrt", {"device_id": "0"}, asked_for=True), [])
    assert plan("instance_group { kind: KIND_GPU gpus: [ 2 ] }")[0].options == {"device_id": "2"}
    found, warnings = plan(ON_GPU + TENSORRT % 'parameters { key: "trt_dla_enable" value: "true" }')
    assert (found.options, warnings) == ({"device_id": "0", "trt_dla_enable": "1"}, [])
    assert plan(ON_GPU + TENSORRT.replace("tensorrt", "cuda") % "")[1] == ["optimization.execution_accelerators 'cuda'"]
    with pytest.raises(ValueError, match="runs on a GPU only, and instance_group says KIND_CPU: ask for KIND_GPU"):
        plan("instance_group { kind: KIND_CPU }")
    with pytest.raises(ValueError, match="runs on the GPU that it was built for"):
        plan("instance_group [ { gpus: [ 0, 1 ] } ]")
    with pytest.raises(ValueError, match="runs on a GPU only, and --device is cpu: ask for KIND_GPU"):
        plan(device="cpu")


def test_engines_are_kept_where_there_is_a_folder_for_them() -> None:
    options = chain(ON_GPU + TENSORRT % "", cache_dir="/var/cache/headrace")[0][0].options
    assert options["trt_engine_cache_enable"] == "1"
    assert options["trt_engine_cache_path"] == "/var/cache/headrace/tensorrt"
    assert "trt_engine_cache_path" not in chain(ON_GPU + TENSORRT % "")[0][0].options


def test_cudas_parameters_are_handed_on() -> None:
    text = TENSORRT.replace("tensorrt", "cuda") % 'parameters { key: "gpu_mem_limit" value: "7" }'
    assert chain(ON_GPU + text)[0][0].options == {"gpu_mem_limit": "7", "device_id": "0"}


def test_accelerators_that_do_not_fit_are_warned_of() -> None:
    cpu = 'optimization { execution_accelerators { cpu_execution_accelerator { name: "openvino" } } } '
    assert chain(cpu)[1] == ["optimization.execution_accelerators 'openvino': the model runs on the CPU as it is"]
    on_cpu = "instance_group { kind: KIND_CPU } "
    told = ["optimization.execution_accelerators 'tensorrt': the model is to run on the CPU"]
    assert chain(on_cpu + TENSORRT % "") == ([], told)
    other = TENSORRT.replace("tensorrt", "npu") % ""
    assert chain(ON_GPU + other)[1] == [
        "optimization.execution_accelerators 'npu': this server knows tensorrt and cuda"
    ]


def test_devices_have_names_for_people() -> None:
    assert [providers.device_of(name) for name in ("cpu", "cuda", "tensorrt", "new")] == [
        *("CPU", "CUDA", "TensorRT"),
        "new",
    ]
