"""The laws of the house, as tests. Each check is a function from a tree (path -> text) to complaints, and each is also
shown a tree that breaks its law, so that it cannot rot into one that always passes."""

import ast
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tidy import floors

ROOT = Path(__file__).resolve().parents[2]
TEXT = {".py", ".pyi", ".cc", ".h", ".md", ".txt", ".toml", ".proto", ".json", ".yaml", ".yml", ".pbtxt", ".mjs", ""}
Tree = dict[str, str]
Complaints = Iterator[str]

REPLACEMENT = "name it after the noun that it is about (docs/glossary.md), or move it to where that noun lives"
BANNED_FILE = re.compile(r"(^|[_\-./])(utils?|helpers?|common|misc|managers?)([_\-./]|$)", re.IGNORECASE)
BANNED_CLASS = re.compile(
    r"^\s*(?:class|struct) (?:HEADRACE_\S+ )?(\w*(?:Manager|Utils?|Helpers?|Misc))\b", re.MULTILINE
)
# Suites about a folder as a whole; every other test file has the name of what it tests.
NATIVE_SUITES = {
    "conformance",
    "dispatcher_promises",
    "engine_places",
    "engine_staging",
    "engine_unload",
    "grpc_pause",
    "infer_response",
    "connection_steps",
    "infer_stream_ends",
    "infer_stream_parts",
    "ort_types",
    "pool_source",
    "pool_waste",
    "queue_order",
    "residency_simulation",
    "scheduler_ends",
    "scheduler_parking",
}
PYTHON_SUITES = {"core", "shared_memory"}
BASE_FILES = {"error", "clock", "sync", "check"}
SILENT_FLOORS = ("base", "memory", "wire", "backend", "batching", "schedule", "engine", "front")
LOUD = re.compile(
    r"\b(printf|puts|putchar|fputs|perror|vprintf|getenv|secure_getenv|syslog)\s*\(|\b(std::)?(cout|cerr|clog)\b|\b(stdout|stderr)\b"
)
STARTS_THREAD = re.compile(r"\bstd::(?:j?thread\b(?!::id)|async\b)|\bpthread_create\b")
# HEADRACE_NGHTTP2_*: a function that only newer releases of the system's library have, looked for by CMake.
FEATURE_SWITCH = re.compile(
    r"^\s*#\s*(?:el)?if(?:n?def)?\b.*\b(?:HEADRACE_(?!NGHTTP2_)|USE_|ENABLE_|WITH_|HAVE_)\w+", re.MULTILINE
)
UNFINISHED = re.compile(r"\b(" + "|".join(["TO" + "DO", "FIX" + "ME", "XX" + "X"]) + r")\b")
PATH_WORD = re.compile(r"`((?:csrc|python|tests|docs|scripts|benchmarks|protos|requirements|\.ci)/[\w./\-]*)`")
LINK = re.compile(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)")
PYTHON_SYMBOL = re.compile(r"^_?Py[A-Z_]\w*$")


def checkout() -> Tree:
    """Every file of the checkout that git does not ignore and that is text of ours."""
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout.split("\n")
    paths = [name for name in listed if name and Path(name).suffix in TEXT and (ROOT / name).is_file()]
    return {name: (ROOT / name).read_text(errors="replace") for name in paths if name != "LICENSE"}


def native(tree: Tree) -> Iterator[tuple[str, str, str]]:
    """(path, folder, text) of the core's sources."""
    for path, text in tree.items():
        if path.startswith("csrc/") and path.endswith((".cc", ".h")):
            yield path, path.split("/")[1], text


def code_only(text: str) -> str:
    """C++ without comments and without what is inside string literals."""
    text = re.sub(r'"(?:\\.|[^"\\\n])*"', '""', text)
    return re.sub(r"//[^\n]*|/\*.*?\*/", "", text, flags=re.DOTALL)


def include_edges(tree: Tree) -> Complaints:
    for path, folder, text in native(tree):
        for name in re.findall(r'^\s*#\s*include\s*"([^"]+)"', text, re.MULTILINE):
            used = name.split("/")[0]
            if "/" not in name:
                yield f'{path}: include "{name}" from csrc/, as "{folder}/{name}"'
            elif not floors.may_include(folder, used):
                yield f"{path}: {folder}/ may not include {name}: only lower floors (docs/architecture.md)"
        if re.search(r"pybind11|Python\.h", text) and folder != "bindings":
            yield f"{path}: only bindings/ includes pybind11 or Python.h"


def import_edges(tree: Tree) -> Complaints:
    for path, text in tree.items():
        if not path.startswith("python/headrace/") or not path.endswith(".py"):
            continue
        module = path.removeprefix("python/headrace/").removesuffix(".py").split("/")[0]
        if module not in floors.FRONTS and floors.level_of(floors.PYTHON, module) is None:
            yield f"{path}: module {module} has no floor: give it one in tests/tidy/floors.py"
            continue
        for used in imported(ast.parse(text)):
            if used != module and not floors.may_import(module, used):
                yield f"{path}: {module} may not import headrace.{used} (docs/architecture.md)"


def imported(parsed: ast.Module) -> Iterator[str]:
    """Names of the modules of headrace that a file imports, at its top or anywhere inside."""
    for node in ast.walk(parsed):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[1] for alias in node.names if alias.name.startswith("headrace."))
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module == "headrace":
            yield from (alias.name for alias in node.names if alias.name != "__version__")
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and (node.module or "").startswith("headrace."):
            yield str(node.module).split(".")[1]
        elif isinstance(node, ast.ImportFrom) and node.level > 0:
            yield f"{'.' * node.level}{node.module or ''} (write imports in full: headrace.<module>)"


def banned_names(tree: Tree) -> Complaints:
    for path, text in tree.items():
        found = BANNED_FILE.search(path)
        if found:
            yield f"{path}: '{found.group(2)}' says nothing: {REPLACEMENT}"
        if path.endswith((".py", ".pyi", ".cc", ".h")):
            for name in BANNED_CLASS.findall(text):
                yield f"{path}: class {name}: {REPLACEMENT}"


def mirrored_names(tree: Tree) -> Complaints:
    sources = {Path(path).stem for path in tree if path.startswith("csrc/")}
    modules = {path.removeprefix("python/headrace/").removesuffix("/__init__.py").removesuffix(".py") for path in tree}
    for path in tree:
        name = Path(path).stem
        if path.startswith("tests/cpp/") and path.endswith(".cc"):
            if not name.endswith("_test"):
                yield f"{path}: a test's file is called <source>_test.cc"
            elif name.removesuffix("_test") not in sources | NATIVE_SUITES:
                yield f"{path}: no csrc/*/{name.removesuffix('_test')}.cc or .h: a test has the name of what it tests"
        if path.startswith("tests/python/test_"):
            tested = name.removeprefix("test_")
            if tested not in modules | PYTHON_SUITES and f"_{tested}" not in modules:
                yield f"{path}: no python/headrace/{tested}.py: a test has the name of what it tests"


def short_files(tree: Tree) -> Complaints:
    for path, text in tree.items():
        lines = text.count("\n")
        limit = 200 if path == "docs/architecture.md" else 500
        if lines > limit:
            yield f"{path}: {lines} lines, the limit is {limit}: split it where its nouns part"


def named_paths_exist(tree: Tree) -> Complaints:
    def exists(path: str) -> bool:
        return path in tree or (ROOT / path).exists() or any(name.startswith(path.rstrip("/") + "/") for name in tree)

    for page, text in tree.items():
        if not page.endswith(".md") or page == "CHANGELOG.md":
            continue
        for path in PATH_WORD.findall(text):
            if not exists(path):
                yield f"{page}: names {path}, which does not exist"
        for link in LINK.findall(text):
            target = (ROOT / page).parent.joinpath(link).resolve()
            if not target.is_relative_to(ROOT) or not exists(str(target.relative_to(ROOT))):
                yield f"{page}: links to {link}, which does not exist"


def silent_core(tree: Tree) -> Complaints:
    for path, folder, text in native(tree):
        if (
            folder in SILENT_FLOORS and path != "csrc/base/check.h"
        ):  # a broken invariant says where, and ends the process
            for found in LOUD.finditer(code_only(text)):
                yield f"{path}: {found.group(0)}: the core is silent and reads no environment; hand it up"


def threads_in_schedule(tree: Tree) -> Complaints:
    for path, folder, text in native(tree):
        if folder != "schedule" and re.search(
            r"\bstd::(j?thread\b(?!::id)|async\b)|\bpthread_create\b", code_only(text)
        ):
            yield f"{path}: only csrc/schedule starts threads"


def no_feature_switch(tree: Tree) -> Complaints:
    for path, _, text in native(tree):
        for found in FEATURE_SWITCH.finditer(text):
            yield f"{path}: '{found.group(0).strip()}': what may be absent is a file of its own, or dlopened"


def closed_base(tree: Tree) -> Complaints:
    for path, folder, _ in native(tree):
        if folder == "base" and Path(path).stem not in BASE_FILES:
            yield f"{path}: base/ is a closed list ({sorted(BASE_FILES)}): a new file needs a page in docs/decisions"


def nothing_unfinished(tree: Tree) -> Complaints:
    for path, text in tree.items():
        for found in UNFINISHED.finditer(text):
            yield f"{path}: {found.group(0)}: do it, or write an issue"


Check = Callable[[Tree], Complaints]
# Each check, and a tree that it must complain about.
CHECKS: dict[Check, Tree] = {
    include_edges: {"csrc/base/error.h": '#include "engine/engine.h"\n'},
    import_edges: {"python/headrace/router.py": "def f():\n    from headrace import _core\n"},
    banned_names: {"python/headrace/string_utils.py": "class A: pass\n"},
    mirrored_names: {"tests/cpp/nothing_test.cc": ""},
    short_files: {"csrc/base/error.cc": "\n" * 501},
    named_paths_exist: {"docs/a.md": "see `csrc/nowhere/at_all.h`\n"},
    silent_core: {"csrc/memory/pool.cc": 'void f() { printf("x"); }\n'},
    threads_in_schedule: {"csrc/engine/engine.cc": "std::thread t([] {});\n"},
    no_feature_switch: {"csrc/engine/engine.cc": "#ifdef HEADRACE_WITH_CUDA\n"},
    closed_base: {"csrc/base/strings.h": ""},
    nothing_unfinished: {"csrc/engine/engine.cc": "// TO" + "DO: later\n"},
}
# More ways to break a law that must be seen.
ALSO_BROKEN: list[tuple[Check, Tree]] = [
    (include_edges, {"csrc/wire/grpc.h": '#include "backend/backend.h"\n'}),  # same floor
    (include_edges, {"csrc/wire/grpc.h": '#include "http2.h"\n'}),  # not from csrc/
    (include_edges, {"csrc/front/loop.cc": "#include <pybind11/pybind11.h>\n"}),
    (import_edges, {"python/headrace/errors.py": "import headrace.server\n"}),
    (import_edges, {"python/headrace/listener.py": "from headrace.service import Service\n"}),
    (import_edges, {"python/headrace/service.py": "from . import server\n"}),
    (import_edges, {"python/headrace/drawer.py": ""}),  # a module without a floor
    (banned_names, {"csrc/engine/engine.h": "class ModelManager {};\n"}),
    (banned_names, {"csrc/common/error.h": ""}),
    (mirrored_names, {"tests/python/test_nothing.py": ""}),
    (named_paths_exist, {"README.md": "[a](docs/nowhere.md)\n"}),
    (silent_core, {"csrc/front/loop.cc": "std::cerr << 1;\n"}),
    (silent_core, {"csrc/front/loop.cc": 'auto x = std::getenv("HOME");\n'}),
]


def name_of(value: object) -> str:
    return str(getattr(value, "__name__", ""))


@pytest.fixture(scope="module")
def tree() -> Tree:
    return checkout()


@pytest.mark.parametrize("check", CHECKS, ids=name_of)
def test_law(check: Check, tree: Tree) -> None:
    complaints = list(check(tree))
    assert not complaints, "\n".join(["", *complaints])


@pytest.mark.parametrize(
    ("check", "bad"), [*CHECKS.items(), *ALSO_BROKEN], ids=lambda value: getattr(value, "__name__", "")
)
def test_law_can_be_broken(check: Check, bad: Tree) -> None:
    assert list(check(bad))


def test_a_lawful_tree_gets_no_complaint() -> None:
    good = {
        "csrc/engine/engine.cc": '#include "memory/pool.h"\n// printf(\nauto text = "stderr";\nstd::thread::id me;\n',
        "python/headrace/service.py": "from headrace.engine import Engine\nimport headrace.errors\n",
    }
    assert [line for check in CHECKS for line in check(good)] == []


def symbols(library: Path) -> set[str]:
    """Names that a library defines or wants."""
    listed = subprocess.run(["nm", "--format=posix", str(library)], check=True, capture_output=True, text=True).stdout
    return {line.split(" ")[0] for line in listed.split("\n") if " " in line}


def test_floors_0_to_5_hold_no_symbol_of_python() -> None:
    for folder in SILENT_FLOORS:
        library = ROOT / f"build/package/libheadrace_{folder}.a"
        assert library.exists(), f"{library} is missing: run make setup"
        found = symbols(library)
        assert found, f"nm listed nothing for {library}"
        assert not [name for name in found if PYTHON_SYMBOL.match(name)], folder


def test_a_symbol_of_python_would_be_seen() -> None:
    extensions = list((ROOT / "build/package").glob("_core.*.so"))
    assert extensions, "build/package has no _core: run make setup"
    assert any(PYTHON_SYMBOL.match(name) for name in symbols_of_shared(extensions[0]))


def symbols_of_shared(library: Path) -> set[str]:
    """Names in a shared library's dynamic table."""
    listed = subprocess.run(["nm", "-D", "--format=posix", str(library)], check=True, capture_output=True, text=True)
    return {line.split(" ")[0] for line in listed.stdout.split("\n") if " " in line}


def test_the_picture_in_the_architecture_page_is_current() -> None:
    page = (ROOT / "docs/architecture.md").read_text()
    drawn = floors.picture(floors.names_present(ROOT))
    assert floors.with_picture(page, drawn) == page, "run make docs"


def test_the_table_of_settings_is_current() -> None:
    page = (ROOT / "docs/configuration.md").read_text()
    printed = subprocess.run(
        [sys.executable, ROOT / "scripts/configuration_page.py"], check=True, capture_output=True, text=True
    ).stdout
    assert page == printed, "run make docs"
