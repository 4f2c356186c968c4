"""Pages of other origins call the server from Chromium: by gRPC-Web with the grpc-web package, and by JSON. And the
server's own page at /docs."""

import base64
import http.client
import http.server
import json
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from e2e.browser import SECONDS, Browser, Page
from e2e.clients import Array
from e2e.h2_peer import ENDLESS
from server_process import ServerProcess

FORMATS = ("binary", "text")


@contextmanager
def site(files: dict[str, Path]) -> Iterator[str]:
    """A web server of some files on a port, and so an origin, of its own."""
    kinds = {".html": "text/html", ".js": "text/javascript", ".mjs": "text/javascript", ".proto": "text/plain"}

    class Files(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            file = files.get(self.path)
            body = file.read_bytes() if file else b"nothing"
            self.send_response(200 if file else 404)
            self.send_header("Content-Type", kinds[file.suffix] if file else "text/plain")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            """Not between the lines of the tests."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Files) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture(scope="module")
def origins(root: Path, node_modules: Path) -> Iterator[tuple[str, str]]:
    """The same page on two origins: the server is told of the first."""
    files = {
        "/": root / "tests/js/page.html",
        "/page.mjs": root / "tests/js/page.mjs",
        "/grpc-web.js": node_modules / "grpc-web/index.esm.js",
        "/protobuf.js": node_modules / "protobufjs/dist/protobuf.min.js",
        **{f"/{name}.proto": root / f"protos/{name}.proto" for name in ("grpc_service", "model_config")},
    }
    with ExitStack() as stack:
        yield stack.enter_context(site(files)), stack.enter_context(site(files))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, models: Path, origins: tuple[str, str]) -> Iterator[ServerProcess]:
    """add_sub, slow on the only lane, and parts, which answers once for each row; at the end the pool is empty."""
    repository = tmp_path_factory.mktemp("pages")
    for name in ("add_sub", "slow"):
        (repository / name / "1").mkdir(parents=True)
        shutil.copyfile(models / f"{name}.onnx", repository / name / "1/model.onnx")
    (repository / "parts/1").mkdir(parents=True)
    (repository / "parts/1/model.echo").write_text("input x INT32 [-1,1]\nhold_on 7\nanswers rows\n")
    policy = "model_transaction_policy { decoupled: true }"
    (repository / "parts/config.pbtxt").write_text(f'backend: "echo" max_batch_size: 8 {policy}')
    with ServerProcess(repository, "--lanes", "1", "--cors-allow-origin", origins[0]) as server:
        yield server
        assert server.stop() == 0
        assert "0 bytes in 0 blocks in use" in server.output()
        assert " ERROR " not in server.output()


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with Browser(tmp_path_factory.mktemp("profile")) as browser:
        yield browser


@pytest.fixture
def page(browser: Browser, origins: tuple[str, str]) -> Page:
    """Of the origin that is allowed."""
    page = browser.open(origins[0])
    assert page.complaints() == []
    return page


@pytest.fixture
def stranger(browser: Browser, origins: tuple[str, str]) -> Page:
    """The same page of the other origin."""
    page = browser.open(origins[1])
    assert page.complaints() == []
    return page


def numbers() -> tuple[Array, Array]:
    random = np.random.default_rng(5)
    bounds = np.iinfo(np.int32)
    a, b = (random.integers(bounds.min, bounds.max, (3, 16), np.int32, endpoint=True) for _ in range(2))
    return a, b


def packed(array: Array) -> str:
    return base64.b64encode(array.tobytes()).decode()


def unpacked(text: str) -> Array:
    return np.frombuffer(base64.b64decode(text), np.int32).reshape(3, 16)


def add_sub(a: Array, b: Array) -> dict[str, Any]:
    """A ModelInferRequest as the page takes it."""
    inputs = [{"name": name, "datatype": "INT32", "shape": a.shape} for name in ("a", "b")]
    return {"model_name": "add_sub", "id": "page", "inputs": inputs, "raw_input_contents": [packed(a), packed(b)]}


def as_json(a: Array, b: Array) -> dict[str, Any]:
    """The same as a body of JSON."""
    tensors = {"a": a, "b": b}
    return {
        "inputs": [
            {"name": name, "datatype": "INT32", "shape": array.shape, "data": array.ravel().tolist()}
            for name, array in tensors.items()
        ]
    }


def rows_served(server: ServerProcess) -> int:
    web = http.client.HTTPConnection(server.http, timeout=30)
    web.request("GET", "/v2/models/add_sub/stats")
    stats = json.load(web.getresponse())
    web.close()
    return int(stats["model_stats"][0]["inference_count"])


@pytest.mark.parametrize("format", FORMATS)
def test_a_page_infers_by_grpc_web(page: Page, server: ServerProcess, format: str) -> None:
    a, b = numbers()
    for port in (server.http, server.grpc):
        said = page.call("calls.grpcWeb", f"http://{port}", format, "ModelInfer", add_sub(a, b))
        assert "response" in said, said
        response = said["response"]
        assert (response["model_name"], response["id"]) == ("add_sub", "page")
        assert [(out["name"], out["datatype"], out["shape"]) for out in response["outputs"]] == [
            ("sum", "INT32", ["3", "16"]),
            ("difference", "INT32", ["3", "16"]),
        ]
        total, difference = (unpacked(raw) for raw in response["raw_output_contents"])
        np.testing.assert_array_equal(total, a + b)
        np.testing.assert_array_equal(difference, a - b)
    assert page.complaints() == []


@pytest.mark.parametrize("format", FORMATS)
def test_other_calls_and_failures_of_grpc_web(page: Page, server: ServerProcess, format: str) -> None:
    def call(method: str, request: dict[str, Any], **metadata: str) -> Any:
        return page.call("calls.grpcWeb", f"http://{server.http}", format, method, request, metadata)

    assert call("ServerReady", {}) == {"response": {"ready": True}}
    metadata = call("ModelMetadata", {"name": "add_sub"})["response"]
    assert [tensor["name"] for tensor in metadata["inputs"]] == ["a", "b"]
    unknown = call("ModelInfer", {"model_name": "größe"})
    assert unknown["code"] == 5
    assert "'größe'" in unknown["message"]
    assert call("ModelMetadata", {"name": "nobody"})["code"] == 5
    a, b = numbers()
    short = add_sub(a, b) | {"raw_input_contents": [packed(a), packed(b[:1])]}
    assert call("ModelInfer", short)["code"] == 3
    assert page.complaints() == []


@pytest.mark.parametrize("format", FORMATS)
def test_deadlines_of_grpc_web(page: Page, server: ServerProcess, format: str) -> None:
    """A deadline is a header that CORS must let through; after one has passed, the only lane is free again."""

    def call(request: dict[str, Any], seconds: float) -> Any:
        metadata = {"deadline": str(int((time.time() + seconds) * 1000))}
        return page.call("calls.grpcWeb", f"http://{server.http}", format, "ModelInfer", request, metadata)

    iterations = base64.b64encode(np.array([ENDLESS], np.int64).tobytes()).decode()
    inputs = [{"name": "iterations", "datatype": "INT64", "shape": [1, 1]}]
    endless = {"model_name": "slow", "inputs": inputs, "raw_input_contents": [iterations]}
    began = time.monotonic()
    assert call(endless, 0.3)["code"] == 4
    assert time.monotonic() - began < SECONDS / 2, "it ended some other way"
    assert "response" in call(add_sub(*numbers()), SECONDS)
    assert page.complaints() == []


@pytest.mark.parametrize("format", FORMATS)
def test_a_page_streams_by_grpc_web(page: Page, server: ServerProcess, format: str) -> None:
    a, b = numbers()
    for port in (server.http, server.grpc):
        said = page.call("calls.grpcWebStream", f"http://{port}", format, add_sub(a, b))
        assert [row.get("error_message", "") for row in said["responses"]] == [""], said
        response = said["responses"][0]["infer_response"]
        np.testing.assert_array_equal(unpacked(response["raw_output_contents"][0]), a + b)
        assert "code" not in said
    said = page.call("calls.grpcWebStream", f"http://{server.http}", format, {"model_name": "nobody"})
    assert "'nobody'" in said["responses"][0]["error_message"]
    assert page.complaints() == []


def test_a_page_watches_and_leaves(page: Page, server: ServerProcess) -> None:
    for port in (server.http, server.grpc):
        assert page.call("calls.watch", f"http://{port}") == [0, 0, 0, 0, 2, 8, 1]
    assert page.complaints() == []


def test_a_page_reads_events_as_they_come_and_leaves(page: Page, server: ServerProcess) -> None:
    url = f"http://{server.http}/v2/models/parts/generate_stream"
    for rows, most, done in (([[5], [6]], 9, True), ([[5], [6], [7]], 2, False)):  # a 7 goes on until nobody waits
        said = page.call("calls.events", url, {"x": rows}, most)
        assert [event["x"] for event in said["found"]] == [5, 6]
        assert (said["status"], said["done"]) == (200, done)
        assert said["type"].startswith("text/event-stream")
    assert page.complaints() == []
    assert page.call("calls.post", url, {"x": [[8]], "y": 1})["status"] == 400


def test_a_page_infers_by_json(page: Page, server: ServerProcess) -> None:
    a, b = numbers()
    url = f"http://{server.http}/v2/models/add_sub/infer"
    said = page.call("calls.post", url, as_json(a, b))
    assert said["status"] == 200
    found = {out["name"]: np.array(out["data"], np.int32).reshape(out["shape"]) for out in said["body"]["outputs"]}
    np.testing.assert_array_equal(found["sum"], a + b)
    np.testing.assert_array_equal(found["difference"], a - b)
    assert page.complaints() == []
    said = page.call("calls.post", f"http://{server.http}/v2/models/nobody/infer", as_json(a, b))
    assert said["status"] == 404, "the page may read what is wrong"
    assert "'nobody'" in said["body"]["error"]


def test_a_page_of_another_origin_is_refused_by_the_browser(stranger: Page, page: Page, server: ServerProcess) -> None:
    a, b = numbers()
    before = rows_served(server)
    for count, format in enumerate(FORMATS, start=1):
        said = stranger.call("calls.grpcWeb", f"http://{server.http}", format, "ModelInfer", add_sub(a, b))
        assert "response" not in said
        assert said["code"] not in (0, None)
        assert sum("blocked by CORS policy" in text for text in stranger.complaints()) == count
    said = stranger.call("calls.post", f"http://{server.http}/v2/models/add_sub/infer", as_json(a, b))
    assert said == {"failed": "TypeError: Failed to fetch"}
    assert sum("blocked by CORS policy" in text for text in stranger.complaints()) == 3
    assert rows_served(server) == before, "a refused page costs no inference"
    # The same code, of the origin that is allowed.
    said = page.call("calls.post", f"http://{server.http}/v2/models/add_sub/infer", as_json(a, b))
    assert said["status"] == 200
    assert rows_served(server) == before + len(a)


def test_the_page_at_docs_lets_people_try_a_model(browser: Browser, server: ServerProcess) -> None:
    here = f"http://{server.http}"
    page = browser.open(f"{here}/docs")
    page.wait_until("document.getElementById('paths').dataset.ready === 'true'")
    box = "document.getElementById('post/v2/models/add_sub/infer')"
    assert "infer" in page.evaluate(f"{box}.querySelector('summary').innerText").lower()
    assert page.evaluate(f"{box}.open") is False
    page.click(f"{box}.querySelector('summary')")
    page.wait_until(f"{box}.open")

    # What it proposes works as it is.
    example = json.loads(page.evaluate(f"{box}.querySelector('textarea').value"))
    assert [(tensor["name"], tensor["datatype"]) for tensor in example["inputs"]] == [("a", "INT32"), ("b", "INT32")]
    page.click(f"{box}.querySelector('button')")
    page.wait_until(f"{box}.querySelector('pre').dataset.status")
    assert answer_in(page, box) == ("200 OK", {"sum": [0] * 16, "difference": [0] * 16})

    # And what people write into it.
    a, b = (array[:1] for array in numbers())
    body = json.dumps(as_json(a, b))
    page.evaluate(f"{box}.querySelector('textarea').value = {json.dumps(body)}")
    page.evaluate(f"delete {box}.querySelector('pre').dataset.status")
    page.click(f"{box}.querySelector('button')")
    page.wait_until(f"{box}.querySelector('pre').dataset.status")
    expected = {"sum": (a + b).ravel().tolist(), "difference": (a - b).ravel().tolist()}
    assert answer_in(page, box) == ("200 OK", expected)

    assert page.complaints() == []
    assert page.asked_for()[0] == f"{here}/docs"
    assert all(url.startswith(f"{here}/") for url in page.asked_for()), "nothing of another host"


def answer_in(page: Page, box: str) -> tuple[str, dict[str, list[int]]]:
    """(status, data of each output) that the page shows."""
    line, text = page.evaluate(f"{box}.querySelector('pre').innerText").split("\n", 1)
    outputs = json.loads(text)["outputs"]
    return line.split(" in ")[0], {out["name"]: np.array(out["data"]).ravel().tolist() for out in outputs}
