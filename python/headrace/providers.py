"""Where a model is to run: the chain of the runtime's providers that config.pbtxt and `--device` ask for. Pure.

`instance_group` says the device, `gpu_execution_accelerator` what stands before CUDA; Triton's words for TensorRT's
parameters are turned into the runtime's, others are handed on as they are. The CPU is always the last of a chain.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from headrace import _proto
from headrace.config import Config

__all__ = ["Provider", "cache_folders", "chain", "device_of", "kept_apart", "plan_provider"]

_PRECISIONS = {
    "FP32": {},
    "FP16": {"trt_fp16_enable": "1"},
    "BF16": {"trt_bf16_enable": "1"},
    "INT8": {"trt_int8_enable": "1"},
}
_TRITONS = {
    "max_workspace_size_bytes": "trt_max_workspace_size",
    "int8_calibration_table_name": "trt_int8_calibration_table_name",
    "int8_use_native_calibration_table": "trt_int8_use_native_calibration_table",
}
_WORDS = {"true": "1", "false": "0"}
_CACHES = ("trt_engine_cache_path", "trt_timing_cache_path")


class Provider(NamedTuple):
    """One of a chain, with the runtime's own options."""

    name: str  # "cuda", "tensorrt"
    options: dict[str, str]
    asked_for: bool  # False: a default, not missed where the runtime was built without it


def chain(
    message: Any, config: Config, wrong: Callable[[str], Exception], warn: Callable[[str, str], None]
) -> list[Provider]:
    """The providers to try, best first; empty: the CPU alone. `wrong` makes the error of a bad value."""
    device, asked_for = _device(message, config, wrong, warn)
    accelerators = message.optimization.execution_accelerators
    for accelerator in accelerators.cpu_execution_accelerator:
        warn(f"optimization.execution_accelerators '{accelerator.name}'", "the model runs on the CPU as it is")
    providers: list[Provider] = []
    cuda: dict[str, str] = {}
    for accelerator in accelerators.gpu_execution_accelerator:
        where = f"optimization.execution_accelerators '{accelerator.name}'"
        if device is None:
            warn(where, "the model is to run on the CPU")
        elif accelerator.name == "tensorrt":
            options = {**_tensorrt(accelerator.parameters, config, wrong), "device_id": str(device)}
            providers.append(Provider("tensorrt", options, asked_for=True))
        elif accelerator.name == "cuda":
            cuda.update(_words(accelerator.parameters))
        else:
            warn(where, "this server knows tensorrt and cuda")
    if device is not None:
        options = {**cuda, "device_id": str(device)}
        providers.append(Provider("cuda", options, asked_for))
    return providers


def _device(
    message: Any, config: Config, wrong: Callable[[str], Exception], warn: Callable[[str, str], None]
) -> tuple[int | None, bool]:
    """The number of the GPU, None for the CPU; and whether it was asked for by name."""
    kinds = _proto.ModelInstanceGroup
    on_gpu = [g for g in message.instance_group if g.kind == kinds.KIND_GPU or (g.kind == kinds.KIND_AUTO and g.gpus)]
    on_cpu = [g for g in message.instance_group if g.kind == kinds.KIND_CPU]
    if on_gpu:
        numbers = sorted({gpu for group in on_gpu for gpu in group.gpus})
        if numbers and numbers[0] < 0:
            raise wrong(f"instance_group.gpus has {numbers[0]}: GPUs are counted from 0")
        if on_cpu or len(numbers) > 1:
            warn("instance_group", f"the model runs on one device only: GPU {numbers[0] if numbers else 0}")
        return numbers[0] if numbers else 0, True
    if on_cpu or config.device == "cpu":
        return None, False
    _, _, number = config.device.partition(":")
    return int(number or 0), config.device != "auto"


def _words(parameters: Mapping[str, str]) -> dict[str, str]:
    """The runtime takes 1 and 0 where people write true and false."""
    return {key: _WORDS.get(value.lower(), value) for key, value in sorted(parameters.items())}


def plan_provider(
    message: Any, config: Config, wrong: Callable[[str], Exception], warn: Callable[[str, str], None]
) -> Provider:
    """Where a TensorRT engine is to run: the GPU that the file or `--device` names, and nowhere else."""
    device, _ = _device(message, config, wrong, warn)
    if device is None:
        says = "instance_group says KIND_CPU" if message.instance_group else "--device is cpu"
        raise wrong(f"a TensorRT plan runs on a GPU only, and {says}: ask for KIND_GPU")
    options: dict[str, str] = {}
    accelerators = message.optimization.execution_accelerators
    for accelerator in (*accelerators.gpu_execution_accelerator, *accelerators.cpu_execution_accelerator):
        if accelerator.name == "tensorrt":
            options |= _tensorrt_options(accelerator.parameters, wrong)
        else:
            warn(f"optimization.execution_accelerators '{accelerator.name}'", "a TensorRT plan runs as it was built")
    return Provider("tensorrt", {**options, "device_id": str(device)}, asked_for=True)


def kept_apart(options: Mapping[str, str], config: Config, key: str) -> dict[str, str]:
    """The options with the server's cache folder turned into one of this model file: the names that the runtime gives
    to engines do not depend on the weights. A folder that config.pbtxt names is left as it is."""
    folder = str(Path(config.cache_dir) / "tensorrt")
    own = str(Path(folder) / key)
    return {name: own if name in _CACHES and value == folder else value for name, value in options.items()}


def cache_folders(options: Mapping[str, str], config: Config) -> set[Path]:
    """Those below the server's cache folder: whoever loads the model makes them first, since the runtime makes one
    level only."""
    found = {Path(value) for name, value in options.items() if name in _CACHES}
    return {folder for folder in found if config.cache_dir and folder.is_relative_to(config.cache_dir)}


def _tensorrt(parameters: Mapping[str, str], config: Config, wrong: Callable[[str], Exception]) -> dict[str, str]:
    options: dict[str, str] = {}
    if config.cache_dir:  # building an engine takes minutes: it is kept
        folder = str(Path(config.cache_dir) / "tensorrt")
        options |= {"trt_engine_cache_enable": "1", "trt_engine_cache_path": folder}
        options |= {"trt_timing_cache_enable": "1", "trt_timing_cache_path": folder}
    return options | _tensorrt_options(parameters, wrong)


def _tensorrt_options(parameters: Mapping[str, str], wrong: Callable[[str], Exception]) -> dict[str, str]:
    options: dict[str, str] = {}
    for key, value in _words(parameters).items():
        if key == "precision_mode":
            if value.upper() not in _PRECISIONS:
                raise wrong(f"tensorrt's precision_mode is '{value}': it must be one of {', '.join(_PRECISIONS)}")
            options |= _PRECISIONS[value.upper()]
        elif key in _TRITONS:
            options[_TRITONS[key]] = value
        elif key.startswith("trt_"):
            options[key] = value
        else:
            known = ", ".join(("precision_mode", *_TRITONS))
            raise wrong(f"tensorrt has no parameter '{key}': it knows {known}, and the runtime's own, trt_...")
    return options


def device_of(provider: str) -> str:
    """A provider for people: "CPU", "CUDA", "TensorRT"."""
    return {"cpu": "CPU", "cuda": "CUDA", "tensorrt": "TensorRT"}.get(provider, provider)
