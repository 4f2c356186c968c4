"""The chain of providers that config.pbtxt and `--device` ask for."""

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


def test_what_one_device_cannot_do_is_warned_of() -> None:
    found, warnings = chain("instance_group [ { gpus: [ 3, 1 ] }, { kind: KIND_CPU } ]")
    assert [provider.options["device_id"] for provider in found] == ["1"]
    assert warnings == ["instance_group: the model runs on one device only: GPU 1"]
    with pytest.raises(ValueError, match="GPUs are counted from 0"):
        chain("instance_group { gpus: [ -1 ] }")


def test_tensorrt_stands_before_cuda_and_takes_tritons_words() -> None:
    parameters = """
        parameters { key: "precision_mode" value: "fp16" }
        parameters { key: "max_workspace_size_bytes" value: "1024" }
        parameters { key: "trt_cuda_graph_enable" value: "true" }
    """
    found, warnings = chain(ON_GPU + TENSORRT % parameters)
    assert warnings == []
    assert [provider.name for provider in found] == ["tensorrt", "cuda"]
    assert found[0].options == {
        "device_id": "0",
        "trt_fp16_enable": "1",
        "trt_max_workspace_size": "1024",
        "trt_cuda_graph_enable": "1",
    }
    with pytest.raises(ValueError, match="precision_mode is 'FP8': it must be one of FP32, FP16, INT8"):
        chain(ON_GPU + TENSORRT % 'parameters { key: "precision_mode" value: "FP8" }')


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
