"""The highest offered rate at which 99 % of the requests are answered on time: open-loop Poisson traffic over three
models of unlike cost, each request with its model's deadline.

With no settings at all, and with fixed ones: the same binary with learning off, for a grid of instances, largest batch
and queue delay, the same for the three models. The fixed ones are no straw men: their queues are bounded, and what is
past its deadline is dropped from them. Each rate of a ladder (a step is 10 %) is offered for a window; a server has
passed a rate when 99 % of the window's requests were answered within their deadlines. The ladder ends at the first rate
that fails twice. The best fixed settings and no settings then climb it again in turns.

    python benchmarks/serving/slo.py [--seconds 6] [--rounds 3] [--report FILE]
"""

import argparse
import itertools
import shutil
import sys
import tempfile
from collections.abc import Mapping
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
# The dense stack reads 16 MB of weights for each run, so a bigger batch costs it next to nothing; the encoder gains
# a little from one, the conv net nothing.
MODELS: Mapping[str, Network] = {
    "dense": Network(lambda: dense_stack(4, 1024), "4 layers of 1,024 x 1,024", dense_row(1024)),
    "encoder": Network(lambda: bert(2, 128, 16, 1024), "2 layers x 128, 16 tokens", tokens_row(16, 1024)),
    "vision": NETWORKS["resnet26_112"],
}
SHARES = {"dense": 0.80, "encoder": 0.16, "vision": 0.04}  # of the requests
DEADLINES = {"dense": 0.05, "encoder": 0.1, "vision": 0.4}  # seconds
GRID = [
    {"count": count, "rows": rows, "delay_us": delay}
    for count, rows, delay in itertools.product((1, 2), (1, 4, 16), (0, 2000))
]


def config(settings: Mapping[str, int], deadline: float) -> str:
    """config.pbtxt of a fixed setting."""
    return (
        f"max_batch_size: {settings['rows']}\n"
        f"instance_group [{{ count: {settings['count']} kind: KIND_CPU }}]\n"
        f"dynamic_batching {{ max_queue_delay_microseconds: {settings['delay_us']}\n"
        f"  default_queue_policy {{ max_queue_size: 256 default_timeout_microseconds: {round(deadline * 1e6)} }} }}\n"
    )


class Candidate:
    """A server with its settings; None: no settings."""

    def __init__(self, files: Path, settings: Mapping[str, int] | None) -> None:
        self.settings = settings
        self.repository = Path(tempfile.mkdtemp(prefix="slo-", dir=files.parent))
        for name in MODELS:
            version = self.repository / name / "1"
            version.mkdir(parents=True)
            shutil.copy(files / f"{name}.onnx", version / "model.onnx")
            if settings is not None:
                (self.repository / name / "config.pbtxt").write_text(config(settings, DEADLINES[name]))
        self.arguments = () if settings is None else ("--scheduler-learning", "off")

    def __str__(self) -> str:
        if self.settings is None:
            return "no settings"
        return f"{self.settings['count']} x {self.settings['rows']} rows, {self.settings['delay_us']} us"


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
    parser.add_argument("--rounds", type=int, default=3, help="climbs of the last two")
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
        best, best_rate = None, options.lowest
        for settings in GRID:
            candidate = Candidate(files, settings)
            rate = ladder.climb(candidate, best_rate, options.seconds / 2)
            reached[str(candidate)] = rate
            if rate >= best_rate:
                best, best_rate = candidate, rate
            print(f"{candidate}: {rate:.0f}/s", flush=True)
        if best is None:
            raise SystemExit(f"no fixed settings reach {options.lowest}/s: give a smaller --lowest")
        free = Candidate(files, None)
        rates: dict[str, list[float]] = {str(free): [], str(best): []}
        for turn in range(options.rounds):
            for candidate in (free, best) if turn % 2 == 0 else (best, free):
                rates[str(candidate)].append(ladder.climb(candidate, best_rate, options.seconds))
                print(f"{candidate}: {rates[str(candidate)][-1]:.0f}/s", flush=True)
    ratios = [mine / theirs for mine, theirs in zip(rates[str(free)], rates[str(best)], strict=True)]
    lines = [
        machine(),
        "",
        f"`python benchmarks/serving/slo.py --seconds {options.seconds:g} --rounds {options.rounds}`: requests "
        + ", ".join(
            f"{SHARES[n]:.0%} {n} ({network.text}, {DEADLINES[n] * 1e3:.0f} ms)" for n, network in MODELS.items()
        )
        + ".",
        "",
        "| fixed: instances x largest batch, queue delay | highest rate with 99 % on time, requests/s |",
        "|---|---|",
        *(
            f"| {settings} | {f'{rate:.0f}' if rate else f'below {options.lowest:.0f}'} |"
            for settings, rate in reached.items()
        ),
        "",
        f"In turns: no settings {spread(rates[str(free)], '.0f')}, best fixed ({best}) "
        f"{spread(rates[str(best)], '.0f')}, ratio {spread(ratios)}.",
    ]
    text = "\n".join(lines) + "\n"
    print(text)
    if options.report:
        options.report.write_text(text)


if __name__ == "__main__":
    main()
