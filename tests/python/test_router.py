"""Which model a name and a version mean."""

from types import SimpleNamespace
from typing import Any, cast

import pytest

from headrace.errors import NotFound, Unavailable
from headrace.router import ModelVersion, Router, State, routes


def ready(name: str, version: int) -> ModelVersion:
    model, settings = SimpleNamespace(name=name, version=version), SimpleNamespace()
    return ModelVersion(name, version, State.READY, "", cast(Any, model), cast(Any, settings))


def broken(name: str, version: int | None, reason: str = "it is broken") -> ModelVersion:
    return ModelVersion(name, version, State.UNAVAILABLE, reason)


def test_the_highest_version_that_is_ready_is_the_default() -> None:
    two, ten = ready("m", 2), ready("m", 10)
    rows = routes([ten, broken("m", 11), two])
    assert rows == [("m", "", ten.model), ("m", "2", two.model), ("m", "10", ten.model), ("m", "11", "it is broken")]


def test_a_model_with_nothing_ready_gives_the_reason_of_its_highest() -> None:
    assert routes([broken("m", 1, "old"), broken("m", 2, "new")]) == [
        ("m", "", "new"),
        ("m", "1", "old"),
        ("m", "2", "new"),
    ]


def test_a_folder_without_versions_has_only_the_default_row() -> None:
    assert routes([broken("m", None, "no version")]) == [("m", "", "no version")]


def test_models_do_not_mix() -> None:
    a, b = ready("a", 1), ready("b", 2)
    assert routes([b, a]) == [("a", "", a.model), ("a", "1", a.model), ("b", "", b.model), ("b", "2", b.model)]


def test_set_publishes_and_find_answers_the_same() -> None:
    published: list[Any] = []
    router = Router(published.append)
    one, two = ready("m", 1), ready("m", 2)
    router.set([two, one, broken("x", 3)])
    assert published == [routes([one, two, broken("x", 3)])]
    assert router.versions == (one, two, broken("x", 3))
    assert router.find("m", "") is two
    assert router.find("m", "1") is one
    assert router.named("m") == [one, two]
    assert router.ready("m", "2") == (two, two.model, two.settings)


def test_what_is_not_there_is_named_with_what_is() -> None:
    router = Router(lambda rows: None)
    router.set([ready("m", 1), ready("m", 3), broken("x", None)])
    with pytest.raises(NotFound, match="model 'n' is not in the model repository"):
        router.find("n", "")
    with pytest.raises(NotFound, match="model 'm' has no version '2'; it serves: 1, 3"):
        router.find("m", "2")
    with pytest.raises(NotFound, match="it serves: none"):
        router.find("x", "1")
    with pytest.raises(Unavailable, match="model 'x' is not available: it is broken"):
        router.ready("x", "")
