"""What config.pbtxt makes of a model's sessions: their devices, and what the runtime keeps of them."""

from pathlib import Path

from headrace import config, model_config
from headrace.model_config import ModelSettings

HOST = config.Host(cores=8, memory_bytes=16 * config.GIB)
CONFIG = config.resolve({"lanes": 4}, host=HOST)


def read(text: str) -> ModelSettings:
    return model_config.read("m", text, CONFIG)


def test_what_is_kept_of_a_version_lies_apart(tmp_path: Path) -> None:
    server = config.resolve({"cache_dir": str(tmp_path)}, host=HOST)
    tensorrt = 'optimization { execution_accelerators { gpu_execution_accelerator { name: "tensorrt" } } }'
    settings = model_config.read("m", tensorrt, server)
    files = [tmp_path / "1.onnx", tmp_path / "2.onnx"]
    for file in files:
        file.write_bytes(b"weights")
    kept = [
        model_config.session_of(settings, version, file, server)["providers"][0]["options"]["trt_engine_cache_path"]
        for version, file in enumerate(files, 1)
    ]
    assert kept[0].startswith(f"{tmp_path}/tensorrt/m-1-")
    assert kept[1].startswith(f"{tmp_path}/tensorrt/m-2-")
    files[0].write_bytes(b"other weights")
    again = model_config.session_of(settings, 1, files[0], server)["providers"][0]["options"]["trt_engine_cache_path"]
    assert again != kept[0], "the file was written again"
    assert model_config.session_of(settings, 1, tmp_path / "gone", server) is settings.session
    assert model_config.session_of(settings, 1, files[0], CONFIG) is settings.session


def test_two_devices_are_two_sessions() -> None:
    found = read("instance_group [ { kind: KIND_GPU count: 2 }, { kind: KIND_CPU } ]").session
    cuda = {"name": "cuda", "options": {"device_id": "0"}, "asked_for": True}
    assert found["providers"] == [cuda]
    assert found["devices"] == [{"providers": [cuda], "max_lanes": 2}, {"providers": [], "max_lanes": 1}]
    assert "devices" not in read("instance_group { kind: KIND_GPU count: 2 }").session
