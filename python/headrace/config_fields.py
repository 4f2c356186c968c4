"""Every field of config.pbtxt, and what Headrace does with it: the one table that the reader obeys and that
docs/config-pbtxt.md is made of.

A row of a message that is WARNED or REFUSED stands for everything below it. `python -m headrace.config_fields` prints
the page's table.
"""

import enum
from typing import NamedTuple

__all__ = ["FIELDS", "PARAMETERS", "Row", "Treatment", "markdown", "row_of"]


class Treatment(enum.Enum):
    """What becomes of a field that a file sets."""

    ACTED = "acted on"
    SHOWN = "shown"  # to clients, in ModelConfig
    WARNED = "warned about"
    REFUSED = "refused"


class Row(NamedTuple):
    """`text`: for ACTED and SHOWN what it does; for the others the reason that the log or the caller gets."""

    treatment: Treatment
    text: str


_A, _S, _W, _R = Treatment.ACTED, Treatment.SHOWN, Treatment.WARNED, Treatment.REFUSED
_NO_EFFECT = "it has no effect here"
_PINNED = "batches and outputs of a GPU lie in page-locked memory as it is"
_CPU = "the model runs on the CPU"
_SHAPE = "tensors are served in the model's own shape"
_SUCH = "such tensors cannot be served"

FIELDS: dict[str, Row] = {
    "name": Row(_A, "must be the folder's name, if it is given"),
    "platform": Row(_A, "onnxruntime_onnx or tensorrt_plan; any other is refused"),
    "backend": Row(_A, "onnxruntime or tensorrt; any other is refused"),
    "runtime": Row(_W, _NO_EFFECT),
    "version_policy": Row(_A, "which versions are served; not given: the highest"),
    "version_policy.latest": Row(_A, "the highest"),
    "version_policy.latest.num_versions": Row(_A, "so many of them; 0 is 1"),
    "version_policy.all": Row(_A, "all of them"),
    "version_policy.specific": Row(_A, "those that are named"),
    "version_policy.specific.versions": Row(_A, "one that the folder lacks is UNAVAILABLE, and named"),
    "max_batch_size": Row(_A, "rows of a batch; 0: the model's own shapes; not written: a probe at load decides"),
    "input": Row(_A, "checked against the model; what is left out is completed from it"),
    "input.name": Row(_A, "one that the model lacks is a fault of the load"),
    "input.data_type": Row(_A, "must be the model's"),
    "input.format": Row(_S, "the server does not look into images"),
    "input.dims": Row(_A, "must fit the model's; narrower ones are shown, and requests may have what the model takes"),
    "input.reshape": Row(_R, _SHAPE),
    "input.is_shape_tensor": Row(_R, _SUCH),
    "input.allow_ragged_batch": Row(
        _A, "requests of unlike lengths share runs, padded with zeros, if a probe at load finds the same answers"
    ),
    "input.optional": Row(_A, "true only where the model has a default"),
    "input.is_non_linear_format_io": Row(_R, _SUCH),
    "output": Row(_A, "as input"),
    "output.name": Row(_A, "as input"),
    "output.data_type": Row(_A, "as input"),
    "output.dims": Row(_A, "as input"),
    "output.label_filename": Row(_A, "names of classes for the classification extension, inside the model's folder"),
    "output.reshape": Row(_R, _SHAPE),
    "output.is_shape_tensor": Row(_R, _SUCH),
    "output.is_non_linear_format_io": Row(_R, _SUCH),
    "batch_input": Row(_R, "inputs that are made from a batch's composition cannot be served"),
    "batch_output": Row(_R, "outputs that are cut by an input's shape cannot be served"),
    "default_model_filename": Row(
        _A, "the file in a version's folder; not given: model.onnx, of a TensorRT plan model.plan"
    ),
    "cc_model_filenames": Row(_W, "models run on the CPU, and default_model_filename is used"),
    "metric_tags": Row(_W, _NO_EFFECT),
    "instance_group": Row(_A, "on which devices the model has sessions, and how many lanes of each may run it"),
    "instance_group.name": Row(_S, "a name for people"),
    "instance_group.count": Row(
        _A, "lanes; none given: one of the CPU's, two of a GPU's; more than the server has are warned of"
    ),
    "instance_group.kind": Row(
        _A, "KIND_CPU, KIND_GPU, KIND_AUTO (what --device says); KIND_MODEL is read as that, and warned of"
    ),
    "instance_group.gpus": Row(_A, "a session on each, with `count` lanes"),
    "instance_group.profile": Row(_W, _CPU),
    "instance_group.rate_limiter": Row(_A, "with --rate-limit execution_count; else it is warned of"),
    "instance_group.rate_limiter.resources": Row(
        _A, "what a batch needs while it runs; where groups differ, the most that one asks"
    ),
    "instance_group.rate_limiter.resources.name": Row(_A, "in any case of letters; no two of a group"),
    "instance_group.rate_limiter.resources.count": Row(
        _A, "1 or more; more than --rate-limit-resource says there is are a fault of the load"
    ),
    "instance_group.rate_limiter.resources.global": Row(_A, "the server has it once, and not once for each device"),
    "instance_group.rate_limiter.priority": Row(_A, "divides the model's weight: 2 gets half of what 1 gets; 0 is 1"),
    "instance_group.passive": Row(_R, "a model that is loaded and never run would be of no use here"),
    "instance_group.secondary_devices": Row(_W, _CPU),
    "instance_group.host_policy": Row(_W, "lanes are not bound to parts of the host"),
    "dynamic_batching": Row(_A, "requests are joined into batches"),
    "dynamic_batching.preferred_batch_size": Row(_A, "sizes that are not waited beyond"),
    "dynamic_batching.max_queue_delay_microseconds": Row(_A, "how long the oldest request may wait for others"),
    "dynamic_batching.preserve_ordering": Row(_A, "of a stream: answers leave in the order of their requests"),
    "dynamic_batching.priority_levels": Row(_A, "so many levels; requests of level 1 go first"),
    "dynamic_batching.default_priority_level": Row(_A, "of requests that name none; 1 to priority_levels"),
    "dynamic_batching.default_queue_policy": Row(_A, "the bounds of the queue"),
    "dynamic_batching.default_queue_policy.timeout_action": Row(
        _A, "REJECT: past its timeout a request is ended; DELAY: it goes behind the others of its level"
    ),
    "dynamic_batching.default_queue_policy.default_timeout_microseconds": Row(
        _A, "how long a request may wait; 0: any"
    ),
    "dynamic_batching.default_queue_policy.allow_timeout_override": Row(_A, "its parameter `timeout` may shorten that"),
    "dynamic_batching.default_queue_policy.max_queue_size": Row(_A, "requests; 0: the server's --max-queue-size"),
    "dynamic_batching.priority_queue_policy": Row(_A, "the same for one level, instead of the default"),
    "dynamic_batching.priority_queue_policy.timeout_action": Row(_A, "as above"),
    "dynamic_batching.priority_queue_policy.default_timeout_microseconds": Row(_A, "as above"),
    "dynamic_batching.priority_queue_policy.allow_timeout_override": Row(_A, "as above"),
    "dynamic_batching.priority_queue_policy.max_queue_size": Row(_A, "requests of the level; 0: only the model's"),
    "sequence_batching": Row(_R, "stateful sequences cannot be served"),
    "ensemble_scheduling": Row(_R, "ensembles cannot be served: call the models one after the other"),
    "optimization": Row(_A, "of the runtime"),
    "optimization.graph": Row(_A, "of the runtime"),
    "optimization.graph.level": Row(_A, "-1 basic, 1 extended, 2 none, otherwise all of ONNX Runtime's optimisations"),
    "optimization.priority": Row(_W, "models share the lanes fairly"),
    "optimization.cuda": Row(_W, _CPU),
    "optimization.execution_accelerators": Row(_A, "of a model on a GPU; on the CPU they are warned of"),
    "optimization.execution_accelerators.gpu_execution_accelerator": Row(_A, "what stands before CUDA"),
    "optimization.execution_accelerators.gpu_execution_accelerator.name": Row(
        _A, "tensorrt, or cuda for its parameters"
    ),
    "optimization.execution_accelerators.gpu_execution_accelerator.parameters": Row(
        _A, "those of TensorRT as Triton spells them, or the runtime's own, trt_...; any other is refused"
    ),
    "optimization.execution_accelerators.cpu_execution_accelerator": Row(_A, "warned of: the CPU as it is"),
    "optimization.execution_accelerators.cpu_execution_accelerator.name": Row(_A, "named in the warning"),
    "optimization.execution_accelerators.cpu_execution_accelerator.parameters": Row(_A, "go with their accelerator"),
    "optimization.input_pinned_memory": Row(_W, _PINNED),
    "optimization.output_pinned_memory": Row(_W, _PINNED),
    "optimization.gather_kernel_buffer_threshold": Row(_W, _CPU),
    "optimization.eager_batching": Row(_W, "a batch is gathered when a lane takes it"),
    "parameters": Row(_A, "by key: see below"),
    "parameters.string_value": Row(_A, "the value"),
    "model_warmup": Row(_A, "what a version runs before it takes traffic; a run that fails is a fault of the load"),
    "model_warmup.name": Row(_A, "named in what is wrong with it"),
    "model_warmup.batch_size": Row(_A, "rows, 1 to max_batch_size; 0 is 1; 1 where the model is not batched"),
    "model_warmup.inputs": Row(_A, "all that the model needs"),
    "model_warmup.inputs.data_type": Row(_A, "must be the model's"),
    "model_warmup.inputs.dims": Row(_A, "of one row; whole where the model is not batched"),
    "model_warmup.inputs.zero_data": Row(_A, "zeros; empty strings"),
    "model_warmup.inputs.random_data": Row(_A, "seeded: floats normal, integers 0 or 1, short words"),
    "model_warmup.inputs.input_data_file": Row(_A, "a file of one row's bytes in the folder warmup of the model's own"),
    "model_warmup.count": Row(_A, "how often; 0 is once"),
    "model_operations": Row(_W, "libraries of custom operators are not loaded"),
    "model_transaction_policy": Row(_A, "how often a model answers"),
    "model_transaction_policy.decoupled": Row(
        _A, "a request has any number of answers; a load error where the backend gives one, or where it is left out"
    ),
    "model_repository_agents": Row(_W, "no agent is run, so nothing is checked or changed by one"),
    "response_cache": Row(_A, "off"),
    "response_cache.enable": Row(_W, "responses are not cached"),
    "model_metrics": Row(_W, _NO_EFFECT),
}

# Keys of `parameters`. Any other is warned about.
PARAMETERS: dict[str, Row] = {
    "intra_op_thread_count": Row(
        _A, "threads of one run, at most the cores; 0 or not given: --compute-threads, which tries it out"
    ),
    "inter_op_thread_count": Row(_A, "the same, for parts of the graph side by side"),
    "execution_mode": Row(_A, "1: parts of the graph run side by side"),
    "strict_device": Row(_A, "1: a model that cannot run where it is asked to is not served"),
    "share_weights": Row(
        _A,
        "1: weights that other versions have too are in memory once; a load takes two to three times as long; "
        "not given: where version_policy serves more than one version",
    ),
    "enable_mem_arena": Row(
        _A, "0: what a run needs for a while goes back to the heap after each run, instead of to a pool"
    ),
    "enable_mem_pattern": Row(_A, "0: no plan of memory is made"),
    "weight": Row(_A, "of the lane time that models without targets share: 0.01 to 100; 1 where none is given"),
    "latency_objective_ms": Row(
        _A, "requests should be answered in so many milliseconds: they go by that, and what cannot make it is refused"
    ),
    "headrace": Row(_S, "in what the server shows: its scheduler's state as JSON; in a file it is passed over"),
    "session.*, optimization.*, ep.*": Row(_A, "handed to ONNX Runtime as session configuration"),
}


def row_of(path: str) -> Row | None:
    """The row of a field ("dynamic_batching.preserve_ordering"), or that of a message around it that is WARNED or
    REFUSED as a whole."""
    names = path.split(".")
    for end in range(1, len(names)):
        above = FIELDS.get(".".join(names[:end]))
        if above is not None and above.treatment in (_W, _R):
            return above
    return FIELDS.get(path)


def markdown() -> str:
    """The two tables."""
    lines = []
    for title, rows in (("field", FIELDS), ("key of `parameters`", PARAMETERS)):
        lines += [f"| {title} | | what that means |", "|---|---|---|"]
        lines += [f"| `{name}` | {row.treatment.value} | {row.text} |" for name, row in rows.items()]
        lines.append("")
    return "\n".join(lines)


if __name__ == "__main__":
    print(markdown(), end="")
