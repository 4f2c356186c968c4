"""What config.pbtxt says of batching, queues and priorities, and the `parameters` that go with it. Pure.

Field names and meanings are Triton's; `latency_objective_ms` and `weight` are parameters of Headrace's own.
"""

import math
import re
from typing import TYPE_CHECKING, Any, NoReturn, Protocol

from headrace import _proto
from headrace.providers import on_gpu
from headrace.resources import MOST, WHOLE_SERVER, Resource

if TYPE_CHECKING:
    from headrace.config import Config
    from headrace.engine import BatchingOptions, LevelQueueOptions

__all__ = ["OBJECTIVE", "WEIGHT", "ConfigReader", "read_batching"]

OBJECTIVE = "latency_objective_ms"
WEIGHT = "weight"
_LONGEST_TIMEOUT = 1 << 50  # microseconds: 35 years
_LONGEST_OBJECTIVE = 3_600_000.0  # milliseconds
_LEAST_WEIGHT, _MOST_WEIGHT = 0.01, 100  # as the core's
_MOST_LEVELS = 1 << 16


class ConfigReader(Protocol):
    """The file that is being read."""

    @property
    def config(self) -> "Config":
        """The server's configuration."""

    def wrong(self, what: str) -> Exception:
        """The error that says what is wrong with the file."""

    def warn(self, field: str, why: str) -> None:
        """Says that a field has no effect."""


def read_batching(reader: ConfigReader, message: Any, stated: int | None) -> "BatchingOptions":
    """`stated`: max_batch_size as written, None when it is not. InvalidArgument names the field and its bounds."""
    config = reader.config
    if stated is not None and not 0 <= stated <= 1 << 20:
        raise reader.wrong(f"max_batch_size is {stated}: it must be 0 to {1 << 20}")
    limit = config.default_max_batch_size if stated is None else stated
    options: BatchingOptions = {
        "decided": stated is not None,
        "max_batch_size": limit,
        "dynamic_batching": stated is None or (stated > 0 and message.HasField("dynamic_batching")),
        "preferred_batch_sizes": [],
        "max_queue_delay_ns": 0,
        "max_queue_size": config.max_queue_size,
        "max_queue_bytes": config.max_queue_bytes,
        "preserve_ordering": False,
        "default_timeout_ns": 0,
        "allow_timeout_override": False,
        "delay_late": False,
        "latency_objective_ns": _objective(reader, message),
        "priority_levels": 0,
        "default_priority_level": 0,
        "level_queues": {},
        "decoupled": message.model_transaction_policy.decoupled,
        "ragged_inputs": [tensor.name for tensor in message.input if tensor.allow_ragged_batch],
        "max_lanes": _max_lanes(reader, message),
        "weight": _weight(reader, message),
        "resources": _resources(reader, message),
    }
    if not message.HasField("dynamic_batching"):
        return options
    dynamic = message.dynamic_batching
    if stated == 0:
        reader.warn("dynamic_batching", "it has no effect because max_batch_size is 0")
        return options
    for size in dynamic.preferred_batch_size:
        if not 0 < size <= limit:
            raise reader.wrong(f"dynamic_batching.preferred_batch_size {size} must be 1 to max_batch_size ({limit})")
    options["preferred_batch_sizes"] = sorted(set(dynamic.preferred_batch_size))
    if dynamic.max_queue_delay_microseconds > 3_600_000_000:
        raise reader.wrong("dynamic_batching.max_queue_delay_microseconds is over an hour")
    options["max_queue_delay_ns"] = dynamic.max_queue_delay_microseconds * 1000
    queue = _queue(dynamic.default_queue_policy)
    if queue["max_queue_size"]:  # 0 is no bound to Triton; here the server's bound stays
        options["max_queue_size"] = queue["max_queue_size"]
    options["preserve_ordering"] = dynamic.preserve_ordering
    options["default_timeout_ns"] = queue["default_timeout_ns"]
    options["allow_timeout_override"] = queue["allow_timeout_override"]
    options["delay_late"] = queue["delay_late"]
    _levels(reader, dynamic, options)
    return options


def _objective(reader: ConfigReader, message: Any) -> int:
    """Nanoseconds; 0: none."""
    if OBJECTIVE not in message.parameters:
        return 0
    text = message.parameters[OBJECTIVE].string_value.strip()
    number = float(text) if re.fullmatch(r"\d{1,9}(\.\d{1,6})?", text) else math.nan
    if not 0 < number <= _LONGEST_OBJECTIVE:
        raise reader.wrong(
            f"parameters.{OBJECTIVE} is '{text}': it must be a number of milliseconds, over 0 and at most an hour"
        )
    return round(number * 1_000_000)


def _weight(reader: ConfigReader, message: Any) -> float:
    """parameters.weight, over the priority of a rate limiter that counts."""
    weight = 1.0
    if WEIGHT in message.parameters:
        text = message.parameters[WEIGHT].string_value.strip()
        weight = float(text) if re.fullmatch(r"\d{1,3}(\.\d{1,6})?", text) else math.nan
        if not _LEAST_WEIGHT <= weight <= _MOST_WEIGHT:
            raise reader.wrong(
                f"parameters.{WEIGHT} is '{text}': it must be a number from {_LEAST_WEIGHT} to {_MOST_WEIGHT}"
            )
    if reader.config.rate_limit == "off":
        return weight
    priorities = [max(1, group.rate_limiter.priority) for group in message.instance_group]
    return max(_LEAST_WEIGHT, weight / min(priorities, default=1))


def _queue(policy: Any) -> "LevelQueueOptions":
    return {
        "delay_late": policy.timeout_action == _proto.ModelQueuePolicy.DELAY,
        "default_timeout_ns": min(policy.default_timeout_microseconds, _LONGEST_TIMEOUT) * 1000,
        "allow_timeout_override": policy.allow_timeout_override,
        "max_queue_size": policy.max_queue_size,
    }


def _levels(reader: ConfigReader, dynamic: Any, options: "BatchingOptions") -> None:
    levels = dynamic.priority_levels
    default = dynamic.default_priority_level

    def wrong(what: str) -> NoReturn:
        raise reader.wrong(f"dynamic_batching.{what}")

    if levels == 0:
        if default:
            wrong(f"default_priority_level is {default}, and there are no priority_levels: give both, or none")
        if dynamic.priority_queue_policy:
            wrong("priority_queue_policy is given, and there are no priority_levels: give both, or none")
        return
    if levels > _MOST_LEVELS:
        wrong(f"priority_levels is {levels}: it must be at most {_MOST_LEVELS}")
    if not 1 <= default <= levels:
        wrong(f"default_priority_level is {default}: it must be 1 to priority_levels ({levels})")
    for level in dynamic.priority_queue_policy:
        if not 1 <= level <= levels:
            wrong(f"priority_queue_policy names level {level}: levels are 1 to priority_levels ({levels})")
    options["priority_levels"] = levels
    options["default_priority_level"] = default
    options["level_queues"] = {level: _queue(policy) for level, policy in dynamic.priority_queue_policy.items()}


def _max_lanes(reader: ConfigReader, message: Any) -> int:
    """How many lanes may run the model at one time: the counts of all groups; 0 (the core's choice) when none is given.
    Without a count a group is one lane of the CPU's, and of a GPU as many as the core finds good."""
    count = on_cpu = 0
    kinds = _proto.ModelInstanceGroup
    for group in message.instance_group:
        if group.count < 0:
            raise reader.wrong(f"instance_group.count is {group.count}: it must be 1 or more")
        if group.kind == kinds.KIND_MODEL:
            reader.warn("instance_group.kind KIND_MODEL", "it is read as KIND_AUTO")
        count += group.count if on_gpu(group) else max(1, group.count)
        if group.kind != kinds.KIND_GPU and not group.gpus:  # a GPU has lanes of its own
            on_cpu += max(1, group.count)
    if on_cpu > reader.config.lanes:
        reader.warn(
            "instance_group.count", f"{on_cpu} is more than the server's {reader.config.lanes} lane(s) (--lanes)"
        )
    return count


def _resources(reader: ConfigReader, message: Any) -> list[Resource]:
    """What a batch needs while it runs, by the rate limiters of all groups: they share the model's lanes."""
    needs: dict[tuple[str, bool], int] = {}
    limiters = [group.rate_limiter for group in message.instance_group if group.HasField("rate_limiter")]
    where = "instance_group.rate_limiter"
    for limiter in limiters:
        named: set[str] = set()
        for resource in limiter.resources:
            name = resource.name.lower()
            is_global = getattr(resource, "global")
            if not re.fullmatch(r"[^:\s]{1,256}", name):
                raise reader.wrong(f"{where}.resources.name is '{resource.name}': give 1 to 256 characters, no ':'")
            if not 1 <= resource.count <= MOST:
                raise reader.wrong(f"{where}.resources '{name}': count is {resource.count}: it must be 1 to {MOST}")
            if name in named or (name, not is_global) in needs:
                raise reader.wrong(f"{where}.resources '{name}' stands there twice, or is global in one place only")
            named.add(name)
            needs[name, is_global] = max(needs.get((name, is_global), 0), resource.count)
    if limiters and reader.config.rate_limit == "off":
        reader.warn(where, "it has no effect without --rate-limit execution_count")
        return []
    if any(limiter != limiters[0] for limiter in limiters) or 0 < len(limiters) < len(message.instance_group):
        reader.warn(where, "the groups' differ, and all of the model's lanes take the most that one asks")
    return [
        {"name": name, "device": WHOLE_SERVER if is_global else 0, "count": count}
        for (name, is_global), count in needs.items()
    ]
