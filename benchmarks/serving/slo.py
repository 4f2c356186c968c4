"""The highest offered rate at which 99 % of the requests are answered on time: open-loop Poisson traffic over three
models of unlike cost, each request with its model's deadline.

With no settings at all, and with fixed ones: the same binary with learning off, for a grid of instances, largest batch
and queue delay, the same for the three models; and two that somebody would choose who knows the models. The fixed ones
are no straw men: their queues are bounded, and what is past its deadline is dropped from them. Each rate of a ladder (a
step is 10 %) is offered for a window; a server has passed a rate when 99 % of the window's requests were answered
within their deadlines. The ladder ends at the first rate that fails twice. No settings, the best of the grid and the
better of those two then climb it again in turns.

    python benchmarks/serving/slo.py [--seconds 6] [--rounds 3] [--report FILE]
"""

import argparse
import itertools
import shutil
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(Path(__file__).parent), str(ROOT / "benchmarks/models"), str(ROOT / "scripts")]

from load import spread  # noqa: E402
from networks import NETWORKS, Network, bert, dense_row, dense_stack, tokens_row  # noqa: E402
from open_loop import message, offer, poisson  # noqa: E402
from unary import machine  # noqa: E402

from server_process import ServerProcess  # noqa: E402

WANTED = 0.99
STEP = 1.1
# The dense stack reads 100 MB of weights for each run, so a bigger batch costs it little; the encoder and the conv net
# gain nothing from one, and a run of the conv net takes as long as an encoder's caller waits.
MODELS: Mapping[str, Network] = {
    "dense": Network(lambda: dense_stack(6, 2048), "6 layers of 2,048 x 2,048", dense_row(2048)),
    "encoder": Network(lambda: bert(4, 256, 64, 1024), "4 layers x 256, 64 tokens", tokens_row(64, 1024)),
    "vision": NETWORKS["resnet50"],
}
SHARES = {"dense": 0.83, "encoder": 0.16, "vision": 0.01}  # of the requests
DEADLINES = {"dense": 0.05, "encoder": 0.1, "vision": 1.0}  # seconds


@dataclass(frozen=True)
class Fixed:
    """Fixed settings."""

    count: int  # instances of each model
    rows: tuple[int, ...]  # largest batch; of each model, or one for all
    delay_us: int

    def __str__(self) -> str:
        return f"{self.count} x {'/'.join(map(str, self.rows))} rows, {self.delay_us} us"


GRID = [Fixed(count, (rows,), delay) for count, rows, delay in itertools.product((1, 2), (1, 4, 16), (0, 2000))]
KNOWN = [Fixed(2, (16, 1, 1), 0), Fixed(2, (16, 4, 1), 2000)]


def config(settings: Fixed, name: str) -> str:
    """config.pbtxt of a model with fixed settings."""
    rows = settings.rows[list(MODELS).index(name) % len(settings.rows)]
    deadline = DEADLINES[name]
    return (
        f"max_batch_size: {rows}\n"
        f"instance_group [{{ count: {settings.count} kind: KIND_CPU }}]\n"
        f"dynamic_batching {{ max_queue_delay_microseconds: {settings.delay_us}\n"
        f"  default_queue_policy {{ max_queue_size: 256 default_timeout_microseconds: {round(deadline * 1e6)} }} }}\n"
    )


class Candidate:
    """A server with its settings; None: no settings."""

    def __init__(self, files: Path, settings: Fixed | None) -> None:
        self.settings = settings
        self.repository = Path(tempfile.mkdtemp(prefix="slo-", dir=files.parent))
        for name in MODELS:
            version = self.repository / name / "1"
            version.mkdir(parents=True)
            shutil.copy(files / f"{name}.onnx", version / "model.onnx")
            if settings is not None:
                (self.repository / name / "config.pbtxt").write_text(config(settings, name))
        self.arguments = () if settings is None else ("--scheduler-learning", "off")

    def __str__(self) -> str:
        return "no settings" if self.settings is None else str(self.settings)


class Ladder:
    """Offers rates to servers."""

    def __init__(self, seconds: float, lowest: float) -> None:
        self.seconds = seconds
        self.lowest = lowest
        self.messages = {name: message(name, network.row()) for name, network in MODELS.items()}
        self.seed = 0

    def on_time(self, server: ServerProcess, rate: float, seconds: float) -> float:
        """The share of one window's requests that was answered within its deadline."""
        self.seed += 1
        arrivals = poisson({name: rate * share for name, share in SHARES.items()}, seconds, self.seed)
        outcomes = offer(server.grpc, arrivals, self.messages, DEADLINES)
        good = sum(outcome.ok and outcome.latency <= DEADLINES[outcome.arrival.model] for outcome in outcomes)
        return good / len(outcomes)

    def climb(self, candidate: Candidate, start: float, seconds: float) -> float:
        """The highest rate that it passes; 0: none, not even the ladder's lowest."""
        passed = 0.0
        rate = start
        with ServerProcess(candidate.repository, *candidate.arguments) as server:
            self.on_time(server, self.lowest, 2)  # warm
            while True:
                if self.on_time(server, rate, seconds) >= WANTED or self.on_time(server, rate, seconds) >= WANTED:
                    passed = rate
                    rate *= STEP
                elif passed or rate <= self.lowest:
                    return passed
                else:
                    rate /= STEP


def main() -> None:
    """Measures, and prints the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=6, help="of a window")
    parser.add_argument("--rounds", type=int, default=3, help="climbs of the last three")
    parser.add_argument("--lowest", type=float, default=100, help="requests/s, where the ladder begins")
    parser.add_argument("--report", type=Path, help="also write the report here")
    options = parser.parse_args()
    ladder = Ladder(options.seconds, options.lowest)
    with tempfile.TemporaryDirectory(prefix="headrace-bench-") as name:
        files = Path(name) / "files"
        files.mkdir()
        for model, network in MODELS.items():
            onnx.save(network.build(), files / f"{model}.onnx")
        reached: dict[str, float] = {}

        def best_of(settings: Sequence[Fixed]) -> Candidate:
            best, best_rate = None, options.lowest
            for each in settings:
                candidate = Candidate(files, each)
                rate = reached[str(candidate)] = ladder.climb(candidate, best_rate, options.seconds / 2)
                if rate >= best_rate:
                    best, best_rate = candidate, rate
                print(f"{candidate}: {rate:.0f}/s", flush=True)
            if best is None:
                raise SystemExit(f"no fixed settings reach {options.lowest}/s: give a smaller --lowest")
            return best

        turns = [Candidate(files, None), best_of(GRID), best_of(KNOWN)]
        rates: dict[str, list[float]] = {str(candidate): [] for candidate in turns}
        for turn in range(options.rounds):
            for candidate in turns[turn % 3 :] + turns[: turn % 3]:
                rates[str(candidate)].append(ladder.climb(candidate, options.lowest * 2, options.seconds))
                print(f"{candidate}: {rates[str(candidate)][-1]:.0f}/s", flush=True)
    free, *others = rates.values()
    lines = [
        machine(),
        "",
        f"`python benchmarks/serving/slo.py --seconds {options.seconds:g} --rounds {options.rounds}`: requests "
        + ", ".join(
            f"{SHARES[n]:.0%} {n} ({network.text}, {DEADLINES[n] * 1e3:.0f} ms)" for n, network in MODELS.items()
        )
        + ".",
        "",
        "| fixed: instances x largest batch (of dense/encoder/vision), queue delay | highest rate, requests/s |",
        "|---|---|",
        *(
            f"| {settings} | {f'{rate:.0f}' if rate else f'below {options.lowest:.0f}'} |"
            for settings, rate in reached.items()
        ),
        "",
        "In turns:",
        "",
        "| | highest rate with 99 % on time, requests/s | no settings over it |",
        "|---|---|---|",
        f"| no settings | {spread(free, '.0f')} | |",
        *(
            f"| {candidate} | {spread(theirs, '.0f')} | {spread([a / b for a, b in zip(free, theirs, strict=True)])} |"
            for candidate, theirs in zip(turns[1:], others, strict=True)
        ),
    ]
    text = "\n".join(lines) + "\n"
    print(text)
    if options.report:
        options.report.write_text(text)


if __name__ == "__main__":
    main()
