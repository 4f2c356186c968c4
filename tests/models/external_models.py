"""Models with external data: some that may be loaded, and every way out of their folder."""

import shutil
from pathlib import Path

import numpy as np
from building import FLOAT, model, value, write
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper


def external(name: str, location: str, offset: int = 0, length: int = 64) -> TensorProto:
    """A FLOAT[4,4] whose bytes lie in another file."""
    tensor = TensorProto(name=name, data_type=FLOAT, dims=[4, 4], data_location=TensorProto.EXTERNAL)
    for key, text in (("location", location), ("offset", str(offset)), ("length", str(length))):
        tensor.external_data.add(key=key, value=text)
    return tensor


def product(weights: TensorProto) -> ModelProto:
    return model(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        [value("x", ["batch", 4])],
        [value("y", ["batch", 4])],
        [weights],
    )


def in_constant(weights: TensorProto) -> ModelProto:
    """The tensor is an attribute of a Constant node."""
    return model(
        [helper.make_node("Constant", [], ["w"], value=weights), helper.make_node("MatMul", ["x", "w"], ["y"])],
        [value("x", ["batch", 4])],
        [value("y", ["batch", 4])],
    )


def in_subgraph(weights: TensorProto) -> ModelProto:
    """The tensor is an initializer of a branch."""

    def side(name: str, initializers: list[TensorProto], node: NodeProto) -> GraphProto:
        return helper.make_graph([node], name, [], [value(name, ["batch", 4])], initializer=initializers)

    return model(
        [
            helper.make_node(
                "If",
                ["condition"],
                ["y"],
                then_branch=side("t", [weights], helper.make_node("MatMul", ["x", "w"], ["t"])),
                else_branch=side("e", [], helper.make_node("Neg", ["x"], ["e"])),
            )
        ],
        [value("x", ["batch", 4]), value("condition", [], TensorProto.BOOL)],
        [value("y", ["batch", 4])],
    )


def make_external(root: Path) -> None:
    """Folders of models with external data: two that may be loaded, and every way out of the folder."""
    data = np.eye(4, dtype=np.float32) * 3
    outside = root / "outside"
    outside.mkdir(parents=True, exist_ok=True)
    (outside / "weights.bin").write_bytes(data.tobytes())
    models = {
        "external_inside": product(external("w", "weights.bin")),
        "external_folder": product(external("w", "data/weights.bin")),
        "external_link_inside": product(external("w", "link.bin")),
        "external_constant_inside": in_constant(external("w", "weights.bin")),
        "external_subgraph_inside": in_subgraph(external("w", "weights.bin")),
        "external_absolute": product(external("w", str((outside / "weights.bin").resolve()))),
        "external_dotdot": product(external("w", "../outside/weights.bin")),
        "external_link": product(external("w", "link_out.bin")),
        "external_folder_link": product(external("w", "folder_out/weights.bin")),
        "external_missing": product(external("w", "missing.bin")),
        "external_short": product(external("w", "weights.bin", offset=16)),
        "external_memory": product(external("w", "*/_ORT_MEM_ADDR_/*", offset=4096)),
        "external_constant": in_constant(external("w", "../outside/weights.bin")),
        "external_subgraph": in_subgraph(external("w", "../outside/weights.bin")),
    }
    for name, built in models.items():
        folder = root / name
        shutil.rmtree(folder, ignore_errors=True)
        write(folder / "model.onnx", built)
        (folder / "weights.bin").write_bytes(data.tobytes())
        (folder / "data").mkdir()
        (folder / "data" / "weights.bin").write_bytes(data.tobytes())
        (folder / "link.bin").symlink_to("weights.bin")
        (folder / "link_out.bin").symlink_to("../outside/weights.bin")
        (folder / "folder_out").symlink_to("../outside")
