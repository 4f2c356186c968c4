"""The scheduler of a real process: what it learns, whom it refuses early, who goes first, and what it shows of that."""

import json
import shutil
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import numpy as np
import pytest
import tritonclient.grpc as triton
from tritonclient.grpc import service_pb2

from e2e.checks import check_ends_clean, when_running
from e2e.h2_peer import ENDLESS, INFER, LONG, Peer
from server_process import ServerProcess

ALONE = "max_batch_size: 1 dynamic_batching { %s }"
OBJECTIVE = ' parameters { key: "latency_objective_ms" value { string_value: "%s" } }'
LEVELS = (
    "priority_levels: 2 default_priority_level: 2 "
    "priority_queue_policy { key: 1 value { max_queue_size: 2 } } "
    "priority_queue_policy { key: 2 value { timeout_action: DELAY allow_timeout_override: true } }"
)
MODELS = {
    "slow": ALONE % "",
    "levels": ALONE % LEVELS,
    "quick": ALONE % "" + OBJECTIVE % "0.5",
    "add_sub": None,
}
STEPS = 20  # iterations of slow: some 10 ms or more
LONG_RUN = 150  # beside which it takes no time to write a hundred requests, or an answer


@pytest.fixture
def server(models: Path, tmp_path: Path, serve: Callable[..., ServerProcess]) -> Iterator[ServerProcess]:
    repository = tmp_path / "repository"
    for name, config in MODELS.items():
        version = repository / name / "1"
        version.mkdir(parents=True)
        file = "add_sub" if name == "add_sub" else "slow"
        shutil.copyfile(models / f"{file}.onnx", version / "model.onnx")
        if config is not None:
            (repository / name / "config.pbtxt").write_text(config)
    served = serve(repository, "--lanes", "1")
    yield served
    check_ends_clean(served)


def ask_slow(model: str, steps: int, **parameters: int) -> bytes:
    request = service_pb2.ModelInferRequest(model_name=model)
    request.inputs.add(name="iterations", datatype="INT64", shape=[1, 1])
    request.raw_input_contents.append(np.array([[steps]], dtype=np.int64).tobytes())
    for name, value in parameters.items():
        request.parameters[name].int64_param = value
    return bytes(request.SerializeToString())


def page(server: ServerProcess, path: str) -> Any:
    with urlopen(f"http://{server.http}{path}", timeout=LONG) as answer:
        return json.load(answer)


def learn(peer: Peer, model: str, runs: int = 8, steps: int = STEPS) -> list[float]:
    """Seconds of each of so many calls, one after the other."""
    took = []
    for _ in range(runs):
        begun = time.monotonic()
        peer.ask(INFER, ask_slow(model, steps))
        took.append(time.monotonic() - begun)
    return took


def test_who_cannot_make_it_is_told_at_once(server: ServerProcess) -> None:
    with Peer(server.grpc) as peer:
        run = statistics.median(learn(peer, "slow", steps=LONG_RUN))
        limit = max(int(run * 5000), 20)  # milliseconds: five runs
        streams = [peer.begin(INFER, [("grpc-timeout", f"{limit}m")]) for _ in range(80)]
        begun = time.monotonic()
        for stream in streams:
            body = ask_slow("slow", LONG_RUN)
            peer.send(stream, b"\0" + len(body).to_bytes(4, "big") + body, end=True)
        answers = [peer.wait(stream) for stream in streams]
        # How soon answers are wanted is looked at every 50 ms and forgotten within a second: on a fast machine all of
        # them may be answered before the first look, on a slow one the last a second after they came.
        shown, end = page(server, "/v2/models/slow/scheduler"), time.monotonic() + LONG
        while shown["answers_wanted_within_us"] is None and time.monotonic() < end:
            last = peer.begin(INFER, [("grpc-timeout", f"{limit}m")])
            body = ask_slow("slow", LONG_RUN)
            peer.send(last, b"\0" + len(body).to_bytes(4, "big") + body, end=True)
            peer.wait(last)
            shown = page(server, "/v2/models/slow/scheduler")
    early = [a for a in answers if a.code == 4 and "would answer in" in a.text]
    good = [a for a in answers if a.code == 0]
    assert len(early) >= 20, [(a.code, a.text) for a in answers]
    assert good
    assert all("the deadline is in" in a.text and "allow more time, or retry later" in a.text for a in early)
    # So many refusals, written and read on a busy machine: still well before the first deadline.
    assert min(a.done_at for a in early) - begun < limit / 1000 / 2
    assert shown["refused_by_prediction"] >= len(early)
    assert 0 < shown["answers_wanted_within_us"] <= limit * 1000
    assert 1 <= shown["lanes"]["now"] <= shown["lanes"]["most"]
    with triton.InferenceServerClient(server.grpc) as client:
        stats = client.get_inference_statistics("slow").model_stats[0].inference_stats
    assert stats.fail.count >= len(early)


def test_an_objective_refuses_what_cannot_keep_it(server: ServerProcess) -> None:
    with Peer(server.grpc) as peer:
        answers = [peer.ask(INFER, ask_slow("quick", STEPS)) for _ in range(12)]
    assert answers[0].code == 0, "nothing is known of such a run yet"
    assert answers[-1].code == 4
    assert "the objective (latency_objective_ms) is in 0 ms" in answers[-1].text


def test_levels_go_first_and_are_bounded_and_the_late_wait(server: ServerProcess) -> None:
    with Peer(server.grpc) as busy, Peer(server.grpc) as peer:
        # Runs long enough that each answer goes out by itself: streams of one write have no order.
        running = busy.call(INFER, ask_slow("slow", ENDLESS))
        when_running(server.http, "slow", 1)
        low = [peer.call(INFER, ask_slow("levels", LONG_RUN)) for _ in range(2)]
        late = peer.call(INFER, ask_slow("levels", LONG_RUN, timeout=1000))
        high = [peer.call(INFER, ask_slow("levels", LONG_RUN, priority=1)) for _ in range(2)]
        refused = peer.ask(INFER, ask_slow("levels", LONG_RUN, priority=1))
        assert refused.code == 8
        assert "full for priority level 1" in refused.text
        assert not any(peer.answers[stream].over for stream in (*low, *high, late))
        busy.reset(running)
        done = {stream: peer.wait(stream) for stream in (*low, *high, late)}
    assert {answer.code for answer in done.values()} == {0}, "a timeout whose action is DELAY ends nobody"
    last_high = max(done[stream].done_at for stream in high)
    assert last_high <= min(done[stream].done_at for stream in low) <= done[late].done_at


def test_what_was_learnt_and_done_can_be_read(server: ServerProcess) -> None:
    with Peer(server.grpc) as peer:
        seen = learn(peer, "slow", runs=10)
    shown = when_running(server.http, "slow", 0)
    ages = {key: shown[key] for key in ("batches", "devices")}  # these have grown
    assert shown == page(server, "/v2/models/slow/versions/1/scheduler") | ages
    (place,) = shown["devices"]
    assert (place["device"], place["provider"], place["waiting"], place["running"]) == ("cpu", "cpu", 0, 0)
    assert {key: place[key] for key in ("lanes", "cost_curves")} == {
        key: shown[key] for key in ("lanes", "cost_curves")
    }
    assert (shown["name"], shown["version"], shown["learning"]) == ("slow", "1", True)
    curve = shown["cost_curves"][0]
    assert curve["runs"] == 10
    assert shown["batches"]["count"] == 10 == sum(shown["batches"]["closed"].values())
    assert shown["batches"]["closed"]["nothing_more_waiting"] == 10
    last = shown["batches"]["last"]
    assert [batch["number"] for batch in last] == list(range(10, 0, -1))
    assert last[0]["predicted_us"] > 0
    # A lane that the machine stops behind an answer takes longer than its caller saw, and a caller that is stopped sees
    # more than the lane took: the curve is held against what the lanes took, and that against the least disturbed call.
    took = [batch["took_us"] for batch in reversed(last)]
    assert curve["points"][0]["us"] == pytest.approx(statistics.median_low(took), rel=0.05)
    assert any(0.5 < us / 1e6 / seconds < 2 for us, seconds in zip(took, seen, strict=True)), (took, seen)
    assert page(server, "/v2/models/quick/scheduler")["policy"]["latency_objective_us"] == 500
    policy = page(server, "/v2/models/levels/scheduler")["policy"]
    assert policy["priority_levels"] == 2
    assert policy["priority_queues"]["2"]["timeout_action"] == "DELAY"
    with triton.InferenceServerClient(server.grpc) as client:
        parameters = client.get_model_config("slow").config.parameters
    assert json.loads(parameters["headrace"].string_value)["cost_curves"][0]["runs"] == 10
    assert "/v2/models/slow/scheduler" in page(server, "/openapi.json")["paths"]


def test_learning_can_be_turned_off(
    models: Path, repository: Callable[..., Path], serve: Callable[..., ServerProcess]
) -> None:
    server = serve(repository(slow=models / "slow.onnx"), "--lanes", "1", "--scheduler-learning", "off")
    with Peer(server.grpc) as peer:
        learn(peer, "slow")
    shown = page(server, "/v2/models/slow/scheduler")
    assert (shown["learning"], shown["cost_curves"]) == (False, [])
    check_ends_clean(server)
