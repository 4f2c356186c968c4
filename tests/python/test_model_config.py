"""config.pbtxt: what is obeyed, what is warned of by name, what is refused, and what the model completes."""

from types import SimpleNamespace
from typing import Any, cast

import pytest

from headrace import _proto, config, model_config
from headrace.errors import HeadraceError, InvalidArgument, Unimplemented
from headrace.model_config import ModelSettings

HOST = config.Host(cores=8, memory_bytes=16 * config.GIB)
CONFIG = config.resolve({"lanes": 4}, host=HOST)


def read(text: str | None, name: str = "m") -> ModelSettings:
    return model_config.read(name, text, CONFIG)


def tensor(name: str, datatype: str, shape: list[int], optional: bool = False) -> dict[str, object]:
    return {"name": name, "datatype": datatype, "shape": shape, "optional": optional}


def model(**changes: Any) -> Any:
    facts = {
        "inputs": [tensor("x", "FP32", [-1, 3, -1]), tensor("bias", "FP32", [-1, 1], True)],
        "outputs": [tensor("label", "BYTES", [-1, 1])],
        "max_batch_size": 8,
        "dynamic_batching": True,
        "lanes": 4,
        "intra_op_threads": 2,
        "threads_reason": "measured",
        "thread_trials": [],
        "provider": "cpu",
        "providers": ["cpu"],
        "backend": "onnxruntime",
    }
    return SimpleNamespace(**{**facts, **changes})


# --- Batching


def test_without_a_file_the_probe_decides() -> None:
    found = read(None)
    assert (found.backend, found.filename, found.max_batch_size, found.warnings) == (
        "onnxruntime",
        "model.onnx",
        None,
        (),
    )
    assert found.batching == {
        "decided": False,
        "max_batch_size": 32,
        "dynamic_batching": True,
        "preferred_batch_sizes": [],
        "max_queue_delay_ns": 0,
        "max_queue_size": CONFIG.max_queue_size,
        "max_queue_bytes": CONFIG.max_queue_bytes,
        "preserve_ordering": False,
        "default_timeout_ns": 0,
        "allow_timeout_override": False,
        "delay_late": False,
        "latency_objective_ns": 0,
        "priority_levels": 0,
        "default_priority_level": 0,
        "level_queues": {},
        "decoupled": False,
        "ragged_inputs": [],
        "max_lanes": 0,
        "weight": 1.0,
        "resources": [],
    }


@pytest.mark.parametrize(
    ("text", "decided", "size", "dynamic"),
    [
        ("", False, 32, True),
        ('name: "m"', False, 32, True),
        ("max_batch_size: 0", True, 0, False),  # written out: the model's own shapes
        ("max_batch_size: 8", True, 8, False),  # and no dynamic_batching: each request runs alone
        ("max_batch_size: 8 dynamic_batching {}", True, 8, True),
        ("dynamic_batching {}", False, 32, True),
        ("# max_batch_size: 0\nname: 'm'", False, 32, True),
        ('parameters { key: "max_batch_size" value { string_value: "max_batch_size: 0" } }', False, 32, True),
        ("max_batch_size: 0 # none\ndynamic_batching < >", True, 0, False),
    ],
)
def test_which_rule_applies(text: str, decided: bool, size: int, dynamic: bool) -> None:
    found = read(text)
    assert found.batching["decided"] is decided
    assert found.batching["max_batch_size"] == size
    assert found.batching["dynamic_batching"] is dynamic
    assert found.max_batch_size == (size if decided else None)


def test_dynamic_batching_is_obeyed() -> None:
    found = read(
        "max_batch_size: 16 dynamic_batching { preferred_batch_size: [8, 4, 8] max_queue_delay_microseconds: 500 "
        "default_queue_policy { max_queue_size: 7 } }"
    )
    assert found.batching["preferred_batch_sizes"] == [4, 8]
    assert found.batching["max_queue_delay_ns"] == 500_000
    assert found.batching["max_queue_size"] == 7
    assert found.warnings == ()


def test_levels_have_queues_of_their_own() -> None:
    found = read(
        "max_batch_size: 2 dynamic_batching { priority_levels: 3 default_priority_level: 2 "
        "default_queue_policy { timeout_action: DELAY default_timeout_microseconds: 9 } "
        "priority_queue_policy { key: 3 value { timeout_action: DELAY default_timeout_microseconds: 5 "
        "allow_timeout_override: true max_queue_size: 4 } } }"
    )
    assert found.warnings == ()
    batching = found.batching
    assert (batching["priority_levels"], batching["default_priority_level"]) == (3, 2)
    assert (batching["delay_late"], batching["default_timeout_ns"]) == (True, 9000)
    assert batching["level_queues"] == {
        3: {"delay_late": True, "default_timeout_ns": 5000, "allow_timeout_override": True, "max_queue_size": 4}
    }


@pytest.mark.parametrize(
    ("batching", "fault"),
    [
        ("priority_levels: 2", "default_priority_level is 0: it must be 1 to priority_levels (2)"),
        ("priority_levels: 2 default_priority_level: 3", "default_priority_level is 3"),
        ("default_priority_level: 1", "there are no priority_levels"),
        ("priority_queue_policy { key: 1 value {} }", "there are no priority_levels"),
        ("priority_levels: 2 default_priority_level: 1 priority_queue_policy { key: 3 value {} }", "names level 3"),
        ("priority_levels: 100000 default_priority_level: 1", "at most 65536"),
    ],
)
def test_levels_that_do_not_fit_are_refused(batching: str, fault: str) -> None:
    with pytest.raises(InvalidArgument) as raised:
        read(f"max_batch_size: 2 dynamic_batching {{ {batching} }}")
    assert fault in raised.value.message


@pytest.mark.parametrize(("text", "nanos"), [("50", 50_000_000), ("0.5", 500_000), ("3600000", 3_600_000_000_000)])
def test_an_objective_is_a_number_of_milliseconds(text: str, nanos: int) -> None:
    found = read(f'parameters {{ key: "latency_objective_ms" value {{ string_value: "{text}" }} }}')
    assert found.batching["latency_objective_ns"] == nanos
    assert found.warnings == ()


@pytest.mark.parametrize("text", ["", "0", "-1", "fast", "1e3", "3600001", "nan"])
def test_an_objective_of_another_kind_is_refused(text: str) -> None:
    with pytest.raises(InvalidArgument) as raised:
        read(f'parameters {{ key: "latency_objective_ms" value {{ string_value: "{text}" }} }}')
    assert "latency_objective_ms" in raised.value.message


def test_what_the_server_shows_of_its_scheduler_may_come_back() -> None:
    assert read('parameters { key: "headrace" value { string_value: "{}" } }').warnings == ()


def test_order_and_timeouts_are_obeyed() -> None:
    found = read(
        "max_batch_size: 2 dynamic_batching { preserve_ordering: true default_queue_policy "
        "{ default_timeout_microseconds: 1500 allow_timeout_override: true timeout_action: REJECT } }"
    )
    assert found.batching["preserve_ordering"]
    assert found.batching["default_timeout_ns"] == 1_500_000
    assert found.batching["allow_timeout_override"]
    assert found.warnings == ()


def test_a_timeout_of_ages_is_still_a_number_of_nanoseconds() -> None:
    found = read(
        "max_batch_size: 2 dynamic_batching "
        "{ default_queue_policy { default_timeout_microseconds: 18446744073709551615 } }"
    )
    assert 0 < found.batching["default_timeout_ns"] < 1 << 63


def test_a_queue_size_of_zero_keeps_the_servers_bound() -> None:
    found = read("max_batch_size: 2 dynamic_batching { default_queue_policy { max_queue_size: 0 } }")
    assert found.batching["max_queue_size"] == CONFIG.max_queue_size


def test_instance_groups_bound_the_lanes() -> None:
    assert read("instance_group [ { count: 2 kind: KIND_CPU } ]").batching["max_lanes"] == 2
    assert read("instance_group [ { kind: KIND_CPU }, { count: 2 } ]").batching["max_lanes"] == 3
    assert read("instance_group { kind: KIND_GPU }").batching["max_lanes"] == 0
    assert read("instance_group { kind: KIND_GPU count: 1 }").batching["max_lanes"] == 1
    many = read("instance_group { count: 9 }")
    assert many.batching["max_lanes"] == 9
    assert "9 is more than the server's 4 lane(s)" in many.warnings[0]


# --- The session


def test_parameters_become_session_options() -> None:
    found = read(
        """
        parameters { key: "intra_op_thread_count" value { string_value: "1" } }
        parameters { key: "execution_mode" value { string_value: "1" } }
        parameters { key: "inter_op_thread_count" value { string_value: "2" } }
        parameters { key: "enable_mem_arena" value { string_value: "0" } }
        parameters { key: "enable_mem_pattern" value { string_value: "0" } }
        parameters { key: "session.intra_op.allow_spinning" value { string_value: "1" } }
        """
    )
    assert found.session == {
        "intra_op_threads": 1,
        "inter_op_threads": 2,
        "parallel_execution": True,
        "graph_optimization_level": 99,
        "memory_arena": False,
        "memory_pattern": False,
        "share_weights": False,
        "config_entries": {"session.intra_op.allow_spinning": "1"},
        "providers": [{"name": "cuda", "options": {"device_id": "0"}, "asked_for": False}],
        "strict_providers": False,
    }
    assert found.warnings == ()


@pytest.mark.parametrize(("level", "passed"), [(-1, 1), (0, 99), (1, 2), (2, 0)])
def test_graph_level_is_tritons(level: int, passed: int) -> None:
    found = read(f"optimization {{ graph {{ level: {level} }} }}")
    assert found.session["graph_optimization_level"] == passed


def test_threads_stay_within_the_cores() -> None:
    asked = 'parameters { key: "intra_op_thread_count" value { string_value: "%d" } }'
    assert read(None).session["intra_op_threads"] == CONFIG.compute_threads == 0
    assert read(asked % 0).session["intra_op_threads"] == 0, "a trial decides"
    assert read(asked % 8).warnings == ()
    found = read(asked % 9)
    assert found.session["intra_op_threads"] == 8
    assert "9 is more than the cores: 8 used" in found.warnings[0]
    parallel = 'parameters { key: "execution_mode" value { string_value: "1" } } '
    parallel += 'parameters { key: "inter_op_thread_count" value { string_value: "4" } } '
    assert read(parallel).session["intra_op_threads"] == 1, "threads of parts side by side are not tried"
    found = read(parallel + asked % 8)
    assert found.session["intra_op_threads"] == 2
    assert "2 used beside 4 inter-op threads" in found.warnings[0]


def test_what_a_trial_found_is_shown() -> None:
    trial = {"threads": 1, "lanes": 8, "batch_size": 8, "rate_of_one": 99.94, "rate_of_batch": 200.0}
    shown = model(thread_trials=[{**trial, "alone_ns": 5_000_000, "rounds": 3}])
    text = model_config.complete(read(None), shown).parameters["headrace.threads"].string_value
    assert text == (
        "2 thread(s) a run on up to 4 lane(s): measured; 1 x 8: 99.94 rows/s, 200 in batches of 8, 5.00 ms alone"
    )
    assert model_config.complete(read(None), shown).parameters["intra_op_thread_count"].string_value == "2"


# --- Never in silence


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ('metric_tags { key: "a" value: "b" }', "metric_tags"),
        ("response_cache { enable: true }", "response_cache"),
        ('model_repository_agents { agents { name: "checksum" } }', "model_repository_agents"),
        ('cc_model_filenames { key: "9.0" value: "a" }', "cc_model_filenames"),
        ('model_operations { op_library_filename: "a.so" }', "model_operations"),
        ('runtime: "r"', "runtime"),
        ("model_metrics {}", "model_metrics"),
        (
            'parameters { key: "cudnn_conv_algo_search" value { string_value: "0" } }',
            "parameters.cudnn_conv_algo_search",
        ),
        ("max_batch_size: 0 dynamic_batching {}", "dynamic_batching"),
        ('instance_group { host_policy: "numa0" }', "instance_group.host_policy"),
        (
            'instance_group { rate_limiter { resources { name: "r" count: 1 } } }',
            "instance_group.rate_limiter: it has no effect without --rate-limit execution_count",
        ),
        ("instance_group { kind: KIND_MODEL }", "instance_group.kind KIND_MODEL"),
        ("optimization { eager_batching: true }", "optimization.eager_batching"),
        ("optimization { input_pinned_memory { enable: true } }", "optimization.input_pinned_memory"),
        (
            'optimization { execution_accelerators { cpu_execution_accelerator { name: "openvino" } } }',
            "optimization.execution_accelerators 'openvino'",
        ),
    ],
)
def test_what_has_no_effect_is_warned_of_by_name(text: str, named: str) -> None:
    warnings = read(text).warnings
    assert len(warnings) == 1
    assert f"config.pbtxt of model 'm': {named}" in warnings[0]


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("sequence_batching {}", "sequence_batching"),
        ('ensemble_scheduling { step { model_name: "a" } }', "ensemble_scheduling"),
        ('batch_input { target_name: "a" }', "batch_input"),
        ('batch_output { target_name: "a" }', "batch_output"),
        ('platform: "pytorch_libtorch"', "platform 'pytorch_libtorch'"),
        ('backend: "python"', "backend 'python'"),
        ('input { name: "x" reshape { shape: [] } }', "input 'x'.reshape"),
        ('output { name: "x" is_shape_tensor: true }', "output 'x'.is_shape_tensor"),
    ],
)
def test_what_cannot_be_served_is_refused_by_name(text: str, named: str) -> None:
    with pytest.raises(Unimplemented) as raised:
        read(text)
    assert named in raised.value.message
    assert "remove the field" in raised.value.message


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("max_batch_size: x", ["cannot be read", "1:"]),
        ("no_such_field: 1", ["cannot be read", "no_such_field"]),
        ('name: "other"', ["'other'", "'m'"]),
        ('platform: "onnxruntime_onnx" backend: "echo"', ["'onnxruntime_onnx'", "'echo'"]),
        ('default_model_filename: "../x.onnx"', ["../x.onnx"]),
        ("max_batch_size: -1", ["max_batch_size is -1"]),
        ("max_batch_size: 4 dynamic_batching { preferred_batch_size: 8 }", ["preferred_batch_size 8", "(4)"]),
        ("instance_group { count: -2 }", ["instance_group.count is -2"]),
        ('input { name: "x" } input { name: "x" }', ["input 'x'", "twice"]),
        ('input { name: "x" dims: [0] }', ["input 'x'", "[0]"]),
        ("input { dims: [1] }", ["has no name"]),
        ('parameters { key: "execution_mode" value { string_value: "fast" } }', ["execution_mode", "'fast'", "0 to 1"]),
        ("dynamic_batching { max_queue_delay_microseconds: 3600000001 }", ["max_queue_delay_microseconds", "hour"]),
    ],
)
def test_what_is_wrong_is_named(text: str, words: list[str]) -> None:
    with pytest.raises(InvalidArgument) as raised:
        read(text)
    assert "config.pbtxt of model 'm'" in raised.value.message
    for word in words:
        assert word in raised.value.message


def test_json_reads_as_the_text_does() -> None:
    text = '{"max_batch_size": 8, "dynamic_batching": {"preferred_batch_size": [4]}, "version_policy": {"all": {}}}'
    found = model_config.read("m", text, CONFIG, is_json=True)
    assert found.batching == read("max_batch_size: 8 dynamic_batching { preferred_batch_size: 4 }").batching
    assert found.versions([1, 2]) == ([1, 2], [])
    assert model_config.read("m", "{}", CONFIG, is_json=True).max_batch_size is None
    assert model_config.read("m", '{"max_batch_size": 0}', CONFIG, is_json=True).max_batch_size == 0
    assert model_config.read("m", '{"maxBatchSize": 0}', CONFIG, is_json=True).max_batch_size == 0


@pytest.mark.parametrize("text", ["", "{", "[]", "7", '{"no_such": 1}', '{"max_batch_size": "many"}', "[" * 100_000])
def test_json_that_is_none(text: str) -> None:
    with pytest.raises(InvalidArgument, match=r"config\.pbtxt of model 'm': the JSON cannot be read"):
        model_config.read("m", text, CONFIG, is_json=True)


# --- Versions


@pytest.mark.parametrize(
    ("policy", "chosen", "missing"),
    [
        ("", [10], []),
        ("version_policy { latest { num_versions: 2 } }", [2, 10], []),
        ("version_policy { latest {} }", [10], []),
        ("version_policy { all {} }", [1, 2, 10], []),
        ("version_policy { specific { versions: [2, 3, 2] } }", [2], [3]),
    ],
)
def test_version_policy(policy: str, chosen: list[int], missing: list[int]) -> None:
    assert read(policy).versions([10, 1, 2]) == (chosen, missing)


# --- Against the model


@pytest.mark.parametrize(
    "text",
    [
        "",
        'max_batch_size: 8 input { name: "x" data_type: TYPE_FP32 dims: [3, -1] }',
        'max_batch_size: 0 input { name: "x" data_type: TYPE_FP32 dims: [-1, 3, -1] }',
        'input { name: "x" dims: [3, -1] } output { name: "label" data_type: TYPE_STRING dims: [-1, 1] }',
        'max_batch_size: 8 input { name: "bias" optional: true }',
    ],
)
def test_a_file_that_fits(text: str) -> None:
    assert model_config.check_signature(read(text), model()) == []


def test_a_size_that_the_file_narrows_is_warned_of() -> None:
    warnings = model_config.check_signature(read('max_batch_size: 8 input { name: "x" dims: [3, 224] }'), model())
    assert len(warnings) == 1
    assert "[3, 224]" in warnings[0]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('input { name: "z" }', "there is no input 'z'; the model has x, bias"),
        ('output { name: "z" }', "there is no output 'z'; the model has label"),
        ('input { name: "x" data_type: TYPE_FP16 }', "input 'x' is TYPE_FP16 in the file and FP32 in the model"),
        ('max_batch_size: 8 input { name: "x" dims: [4, -1] }', "[4, -1]"),
        ('max_batch_size: 8 input { name: "x" dims: [-1, 3, -1] }', "[3, -1] in the model without the batch dimension"),
        ('max_batch_size: 0 input { name: "x" dims: [3, -1] }', "[-1, 3, -1]"),
        ('input { name: "x" optional: true }', "the model has no default"),
    ],
)
def test_a_file_that_does_not_fit(text: str, words: str) -> None:
    with pytest.raises(InvalidArgument) as raised:
        model_config.check_signature(read(text), model())
    assert words in raised.value.message


@pytest.mark.parametrize("shape", [[1, 3], []])
def test_a_batch_needs_a_dynamic_first_dimension(shape: list[int]) -> None:
    fixed = model(inputs=[tensor("x", "FP32", shape)])
    assert model_config.check_signature(read("max_batch_size: 0"), fixed) == []
    with pytest.raises(InvalidArgument, match=r"'x' has the fixed shape .* max_batch_size: 0"):
        model_config.check_signature(read("max_batch_size: 8"), fixed)


def test_all_differences_are_named_at_once() -> None:
    text = 'input { name: "z" } output { name: "label" data_type: TYPE_FP32 }'
    with pytest.raises(HeadraceError) as raised:
        model_config.check_signature(read(text), model())
    assert "'z'" in raised.value.message
    assert "'label'" in raised.value.message


# --- The whole


def test_the_model_completes_what_the_file_leaves_out() -> None:
    whole = model_config.complete(read(None), model())
    assert (whole.name, whole.platform, whole.backend) == ("m", "onnxruntime_onnx", "onnxruntime")
    assert (whole.max_batch_size, whole.default_model_filename) == (8, "model.onnx")
    assert whole.version_policy.latest.num_versions == 1
    assert whole.WhichOneof("scheduling_choice") == "dynamic_batching"
    shown = [(t.name, _proto.DataType(t.data_type).name, list(t.dims), t.optional) for t in whole.input]
    assert shown == [("x", "TYPE_FP32", [3, -1], False), ("bias", "TYPE_FP32", [1], True)]
    assert [(t.name, t.data_type, list(t.dims)) for t in whole.output] == [("label", 13, [1])]
    group = whole.instance_group[0]
    assert (group.name, group.count, group.kind) == ("m_0", 4, _proto.ModelInstanceGroup.KIND_CPU)


def test_what_the_file_says_stays() -> None:
    text = """
        max_batch_size: 8
        dynamic_batching { preferred_batch_size: 4 max_queue_delay_microseconds: 9 }
        input { name: "bias" format: FORMAT_NCHW }
        instance_group { name: "mine" count: 2 }
        version_policy { all {} }
        parameters { key: "a" value { string_value: "b" } }
    """
    whole = model_config.complete(read(text), model(lanes=2))
    assert [t.name for t in whole.input] == ["x", "bias"]  # the model's order
    assert whole.input[1].format == _proto.ModelInput.FORMAT_NCHW
    assert list(whole.dynamic_batching.preferred_batch_size) == [4]
    assert whole.dynamic_batching.max_queue_delay_microseconds == 9
    assert (whole.instance_group[0].name, whole.instance_group[0].count) == ("mine", 2)
    assert whole.version_policy.WhichOneof("policy_choice") == "all"
    assert whole.parameters["a"].string_value == "b"


def test_an_unbatched_model_has_whole_shapes_and_no_dynamic_batching() -> None:
    plain = model(max_batch_size=0, dynamic_batching=False, lanes=1)
    whole = model_config.complete(read("dynamic_batching {}"), plain)
    assert whole.max_batch_size == 0
    assert whole.WhichOneof("scheduling_choice") is None
    assert list(whole.input[0].dims) == [-1, 3, -1]
    assert whole.instance_group[0].count == 1


def test_completing_leaves_the_settings_alone() -> None:
    settings = read("max_batch_size: 8")
    before = settings.message.SerializeToString()
    model_config.complete(settings, cast(Any, model()))
    assert settings.message.SerializeToString() == before
