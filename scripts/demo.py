"""Serves a real model with Headrace and classifies files: this repository's own, and those on the command line.

The model is the one that the `magika` package carries (what kind of file is this?). Every answer is compared with
ONNX Runtime run directly. Exit code 0 only if all of them agree and the server stops cleanly.
"""

import argparse
import asyncio
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import magika
import numpy as np
import onnxruntime
import tritonclient.grpc.aio as triton

from server_process import ServerFailed, ServerProcess

ROOT = Path(__file__).resolve().parents[1]
MODEL = "magika"
IN_FLIGHT = 16
SCORE_TOLERANCE = 0.01


@dataclass
class Row:
    """One file. `features` is None where its size alone decides (empty, a few bytes); then no model is asked."""

    path: Path
    features: Any
    label: str = ""
    score: float = 1.0
    raw_label: int = -1  # the model's best class, before thresholds
    batch: int = 0
    queue_ms: float = 0.0
    compute_ms: float = 0.0


class DemoFailed(Exception):
    """What went wrong, for a reader who has not seen the code."""


def model_repository(folder: Path, onnx: Path) -> Path:
    """A repository with the one model in it: <folder>/magika/1/model.onnx. No configuration is needed."""
    version = folder / MODEL / "1"
    version.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(onnx, version / "model.onnx")
    return folder


def repository_files() -> list[Path]:
    """What git knows of this checkout; without git, what lies in it outside of hidden and built folders."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=False)
    if listed.returncode == 0:
        paths = [ROOT / name for name in listed.stdout.decode().split("\0") if name]
    else:
        built = {"build", "dist"}
        paths = [
            path
            for path in sorted(ROOT.rglob("*"))
            if not any(part.startswith(".") or part in built for part in path.relative_to(ROOT).parts)
        ]
    return [path for path in paths if path.is_file()]


def rows_of(classifier: Any, paths: list[Path]) -> list[Row]:
    """Each file with its features as the model wants them, made by the package that made the model."""
    rows = []
    for path in paths:
        decided, features = classifier._get_result_or_features_from_path(path)
        if decided is not None and not decided.ok:
            raise DemoFailed(f"{path}: {decided.status}")
        row = Row(path, None if features is None else np.array([features.beg + features.end], dtype=np.int32))
        if decided is not None:
            row.label = str(decided.prediction.output.label)
        rows.append(row)
    return rows


async def classify(address: str, classifier: Any, rows: list[Row]) -> float:
    """Asks the server about each row, up to IN_FLIGHT at a time. Seconds that it took."""
    gate = asyncio.Semaphore(IN_FLIGHT)
    async with triton.InferenceServerClient(address) as client:

        async def ask(row: Row) -> None:
            given = triton.InferInput("bytes", list(row.features.shape), "INT32")
            given.set_data_from_numpy(row.features)
            async with gate:
                answer = await client.infer(MODEL, [given], parameters={"headrace_timing": True})
            read_answer(classifier, row, answer)

        started = time.perf_counter()
        await asyncio.gather(*(ask(row) for row in rows if row.features is not None))
        return time.perf_counter() - started


def read_answer(classifier: Any, row: Row, answer: Any) -> None:
    """Fills the row with label, score, and what the response says of its batch."""
    scores = answer.as_numpy("target_label")[0]
    row.raw_label = int(scores.argmax())
    row.score = float(scores[row.raw_label])
    row.label = final_label(classifier, row.raw_label, row.score)
    told = answer.get_response().parameters
    row.batch = told["headrace_batch_size"].int64_param
    row.queue_ms = told["headrace_queue_ns"].int64_param / 1e6
    row.compute_ms = told["headrace_compute_ns"].int64_param / 1e6


def final_label(classifier: Any, raw_label: int, score: float) -> str:
    """The label that the package would show: the model's, or a general one where the score is low."""
    label = classifier._model_config.target_labels_space[raw_label]
    return str(classifier._get_output_label_from_dl_label_and_score(label, score)[0])


def disagreements(onnx: Path, rows: list[Row]) -> list[str]:
    """Each answer against ONNX Runtime run directly on that file alone: a line for each that differs."""
    session = onnxruntime.InferenceSession(onnx, providers=["CPUExecutionProvider"])
    found = []
    for row in rows:
        if row.features is None:
            continue
        scores = session.run(["target_label"], {"bytes": row.features})[0][0]
        label, score = int(scores.argmax()), float(scores.max())
        if label != row.raw_label or abs(score - row.score) > SCORE_TOLERANCE:
            found.append(
                f"{row.path}: the server says class {row.raw_label} with {row.score:.4f}, "
                f"ONNX Runtime alone says class {label} with {score:.4f}"
            )
    return found


def print_table(rows: list[Row]) -> None:
    """The table: one line a file."""
    names = [str(row.path.relative_to(ROOT) if row.path.is_relative_to(ROOT) else row.path) for row in rows]
    width = min(60, max(len(name) for name in names))
    print(f"{'file':<{width}}  {'label':<14} {'score':>6}  {'batch':>5}  {'queue ms':>8}  {'compute ms':>10}")
    for name, row in zip(names, rows, strict=True):
        shown = name if len(name) <= width else "..." + name[3 - width :]
        ran = f"{row.batch:>5}  {row.queue_ms:>8.2f}  {row.compute_ms:>10.2f}" if row.batch else "    -  (by its size)"
        print(f"{shown:<{width}}  {row.label:<14} {row.score:>6.3f}  {ran}")


def run(extra: list[Path]) -> None:
    """The whole demo. DemoFailed or ServerFailed says what went wrong."""
    for path in extra:
        if not path.is_file():
            raise DemoFailed(f"{path}: no such file; FILES takes paths, separated by spaces")
    classifier = magika.Magika()
    rows = rows_of(classifier, repository_files() + [path.resolve() for path in extra])
    repository = model_repository(ROOT / "build/demo", classifier._model_path)
    asked = [row for row in rows if row.features is not None]

    with ServerProcess(repository) as server:
        print(f"serving {repository.relative_to(ROOT)} at {server.grpc}, classifying {len(rows)} files\n", flush=True)
        seconds = asyncio.run(classify(server.grpc, classifier, rows))
        code = server.stop()
        if code != 0:
            raise ServerFailed(f"the server ended with code {code}:\n{server.output()}")
    print_table(rows)
    batches = sum(1 / row.batch for row in asked)
    print(
        f"\n{len(asked)} requests, up to {IN_FLIGHT} at a time, ran in {batches:.0f} batches in {seconds:.2f} s "
        f"({len(asked) / seconds:.0f} a second); the server stopped cleanly"
    )
    wrong = disagreements(classifier._model_path, rows)
    if wrong:
        raise DemoFailed("answers that differ from ONNX Runtime's:\n" + "\n".join(wrong))
    print(f"all {len(asked)} answers agree with ONNX Runtime run directly (same label, score within {SCORE_TOLERANCE})")


def main() -> int:
    """Exit code: 0 if every answer was right and the server stopped cleanly, else 1 with one message."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("files", nargs="*", type=Path, help="files to classify besides the repository's own")
    try:
        run(parser.parse_args().files)
    except (DemoFailed, ServerFailed, triton.InferenceServerException) as error:
        print(f"demo: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
