"""Where a model is to run: the chain of the runtime's providers that config.pbtxt and `--device` ask for. Pure.

`instance_group` says the device, `gpu_execution_accelerator` what stands before CUDA; Triton's words for TensorRT's
parameters are turned into the runtime's, others are handed on as they are. The CPU is always the last of a chain.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from headrace import _proto
from headrace.config import Config

__all__ = [
    "Device",
    "Provider",
    "cache_folders",
    "chain",
    "device_of",
    "devices",
    "kept_apart",
    "on_gpu",
    "plan_provider",
]

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
_GRAPHS = {"enable_cuda_graph", "trt_cuda_graph_enable"}
# The runtime casts such numbers to pointers: whoever writes a config would read and call memory of this process; and
# a run does not wait for copies on a stream that is not the runtime's own.
_ADDRESSES = {
    "user_compute_stream",
    "has_user_compute_stream",
    "gpu_external_alloc",
    "gpu_external_free",
    "gpu_external_empty_cache",
    "trt_onnx_bytestream",
    "trt_onnx_bytestream_size",
    "trt_external_data_bytestream",
    "trt_external_data_bytestream_size",
}
# Code that the runtime would load, and what to do in its place.
_LIBRARIES = {
    "trt_extra_plugin_lib_paths": "start the server with that library in LD_PRELOAD",
    "trt_engine_decryption_lib_path": "encrypted engines cannot be had here, remove it",
}
_CACHES = ("trt_engine_cache_path", "trt_timing_cache_path")


class Provider(NamedTuple):
    """One of a chain, with the runtime's own options."""

    name: str  # "cuda", "tensorrt"
    options: dict[str, str]
    asked_for: bool  # False: a default, not missed where the runtime was built without it


class Device(NamedTuple):
    """Where a model is to have a session, and how many lanes there may run it."""

    chain: tuple[Provider, ...]  # best first; empty: the CPU alone
    lanes: int  # 0: the core's choice (two of a GPU's: the copies of one batch go on while another runs)


def devices(
    message: Any, config: Config, wrong: Callable[[str], Exception], warn: Callable[[str, str], None]
) -> list[Device]:
    """In the order of instance_group; at least one. `wrong` makes the error of a bad value."""
    numbers, asked_for = _numbers(message, config, wrong)
    before, cuda = _accelerators(message, config, numbers, wrong, warn)
    found = []
    for number, lanes in numbers.items():
        chain: list[Provider] = []
        if number is not None:
            place = {"device_id": str(number)}
            chain = [Provider("tensorrt", {**options, **place}, asked_for=True) for options in before]
            chain.append(Provider("cuda", {**cuda, **place}, asked_for))
        found.append(Device(tuple(chain), lanes))
    return found


def chain(
    message: Any, config: Config, wrong: Callable[[str], Exception], warn: Callable[[str, str], None]
) -> list[Provider]:
    """Of the first device: the providers to try, best first; empty: the CPU alone."""
    return list(devices(message, config, wrong, warn)[0].chain)


def _accelerators(
    message: Any,
    config: Config,
    numbers: Mapping[int | None, int],
    wrong: Callable[[str], Exception],
    warn: Callable[[str, str], None],
) -> tuple[list[dict[str, str]], dict[str, str]]:
    """The options of each TensorRT that stands before CUDA, and CUDA's own."""
    accelerators = message.optimization.execution_accelerators
    for accelerator in accelerators.cpu_execution_accelerator:
        warn(f"optimization.execution_accelerators '{accelerator.name}'", "the model runs on the CPU as it is")
    tensorrt: list[dict[str, str]] = []
    cuda: dict[str, str] = {}
    for accelerator in accelerators.gpu_execution_accelerator:
        where = f"optimization.execution_accelerators '{accelerator.name}'"
        if all(number is None for number in numbers):
            warn(where, "the model is to run on the CPU")
        elif accelerator.name == "tensorrt":
            tensorrt.append(_tensorrt(accelerator.parameters, config, wrong))
        elif accelerator.name == "cuda":
            cuda.update(_words("cuda", accelerator.parameters, wrong))
        else:
            warn(where, "this server knows tensorrt and cuda")
    return tensorrt, cuda


def _numbers(message: Any, config: Config, wrong: Callable[[str], Exception]) -> tuple[dict[int | None, int], bool]:
    """GPUs by number, and None for the CPU, with the lanes of each; and whether GPUs were asked for by name.

    A group of KIND_AUTO without GPUs goes where `--device` says, or where another group of the file is already.
    """
    kinds = _proto.ModelInstanceGroup
    found: dict[int | None, int] = {}
    anywhere = 0
    asked_for = False
    for group in message.instance_group:
        count = max(1, group.count)
        if group.kind == kinds.KIND_CPU:
            found[None] = found.get(None, 0) + count
        elif on_gpu(group):
            asked_for = True
            for number in group.gpus or (0,):
                if number < 0:
                    raise wrong(f"instance_group.gpus has {number}: GPUs are counted from 0")
                found[number] = found.get(number, 0) + group.count
        else:
            anywhere += count
    if found:
        first = next(iter(found))
        found[first] += anywhere
        return found, asked_for
    if config.device == "cpu":
        return {None: anywhere}, False
    _, _, number = config.device.partition(":")
    return {int(number or 0): anywhere}, config.device != "auto"


def on_gpu(group: Any) -> bool:
    """Whether a group of config.pbtxt asks for GPUs."""
    kinds = _proto.ModelInstanceGroup
    return bool(group.kind == kinds.KIND_GPU or (group.kind == kinds.KIND_AUTO and group.gpus))


def _words(name: str, parameters: Mapping[str, str], wrong: Callable[[str], Exception]) -> dict[str, str]:
    """The runtime takes 1 and 0 where people write true and false. What no session here may have is refused."""
    words = {key: _WORDS.get(value.lower(), value) for key, value in sorted(parameters.items())}
    for key, value in words.items():
        if key in _ADDRESSES:
            raise wrong(f"{name}'s {key} is about addresses in the server's memory, which no config may say: remove it")
        if key in _LIBRARIES and value:
            raise wrong(
                f"{name}'s {key} is '{value}': a config may come with a request to load, and may not name code to be "
                f"run: {_LIBRARIES[key]}"
            )
        if key in _GRAPHS and value != "0":
            raise wrong(
                f"{name}'s {key} is '{value}': a CUDA graph reads and writes the same addresses in every run, and here "
                "each run has tensors of its own, so its answers would be wrong: remove it, or set it to 0"
            )
        if key == "do_copy_in_default_stream" and value != "1":
            raise wrong(
                f"{name}'s {key} is '{value}': copies that do not wait for what they copy make answers wrong: "
                "remove it, or set it to 1"
            )
    return words


def plan_provider(
    message: Any, config: Config, wrong: Callable[[str], Exception], warn: Callable[[str, str], None]
) -> Provider:
    """Where a TensorRT engine is to run: the GPU that the file or `--device` names, and nowhere else."""
    numbers, _ = _numbers(message, config, wrong)
    device = next(iter(numbers))
    if len(numbers) > 1:
        raise wrong("a TensorRT plan runs on the GPU that it was built for: name one in instance_group.gpus")
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
    for key, value in _words("tensorrt", parameters, wrong).items():
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
