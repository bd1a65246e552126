"""How requests are put together into batches: TensorFlow Serving's BatchingParameters, checked.

References: TensorFlow Serving, `servables/tensorflow/bundle_factory_util.cc`; TensorFlow,
    `core/kernels/batching_util/shared_batch_scheduler.h` (defaults and limits).
"""

import dataclasses
import itertools
import os

from serving import saved_model
from serving.model_server import config_messages

# The name of TensorFlow Serving's pool where no file names one.
_POOL_NAME = "model_server_batch_threads"
_MAX_THREADS = 1024


@dataclasses.dataclass(frozen=True)
class BatchingOptions:
    """One file's worth of parameters.

    Attributes:
        max_batch_size: the rows of the largest request, and of the largest batch where requests
            are not split.
        batch_timeout_seconds: how long a request waits for others before it runs without them.
        max_enqueued_batches: how many batches may wait; one more is refused as UNAVAILABLE.
        num_batch_threads: how many batches run at once, all models together.
        allowed_batch_sizes: the sizes that a batch is filled up to, ascending; empty for any.
        pad_variable_length_inputs: whether requests of different shapes are padded to one.
        max_execution_batch_size: the rows of the largest batch; less than `max_batch_size` only
            where requests are split.
        split_large_requests: whether a request may run in several batches.
        thread_pool_name: what the metrics call the threads.
    """

    max_batch_size: int = 1000
    batch_timeout_seconds: float = 0.0
    max_enqueued_batches: int = 10
    num_batch_threads: int = os.cpu_count() or 1
    allowed_batch_sizes: tuple[int, ...] = ()
    pad_variable_length_inputs: bool = False
    max_execution_batch_size: int = 1000
    split_large_requests: bool = False
    thread_pool_name: str = _POOL_NAME


def read(path: str | os.PathLike[str]) -> BatchingOptions:
    """Reads a text-format BatchingParameters; what it leaves out has TensorFlow's defaults.

    Raises:
        StatusError: NOT_FOUND or INVALID_ARGUMENT if the file is missing, no such message, or
            has values that contradict each other.
    """
    parameters = config_messages.read_text(path, config_messages.BatchingParameters())

    def value(field: str, default: int) -> int:
        return getattr(parameters, field).value if parameters.HasField(field) else default

    defaults = BatchingOptions()
    split = parameters.enable_large_batch_splitting.value
    max_batch_size = value("max_batch_size", defaults.max_batch_size)
    options = BatchingOptions(
        max_batch_size=max_batch_size,
        batch_timeout_seconds=value("batch_timeout_micros", 0) / 1e6,
        max_enqueued_batches=value("max_enqueued_batches", defaults.max_enqueued_batches),
        num_batch_threads=value("num_batch_threads", defaults.num_batch_threads),
        allowed_batch_sizes=tuple(parameters.allowed_batch_sizes),
        pad_variable_length_inputs=parameters.pad_variable_length_inputs,
        max_execution_batch_size=(
            value("max_execution_batch_size", max_batch_size) if split else max_batch_size
        ),
        split_large_requests=split,
        thread_pool_name=parameters.thread_pool_name.value,
    )
    return _checked(options)


def _checked(options: BatchingOptions) -> BatchingOptions:
    for name, value in (
        ("num_batch_threads", options.num_batch_threads),
        ("max_batch_size", options.max_batch_size),
        ("max_execution_batch_size", options.max_execution_batch_size),
    ):
        if value < 1:
            raise saved_model.invalid_argument(f"{name} must be positive; was {value}")
    if options.num_batch_threads > _MAX_THREADS:
        raise saved_model.invalid_argument(
            f"num_batch_threads must be at most {_MAX_THREADS}; was {options.num_batch_threads}"
        )
    if options.batch_timeout_seconds < 0:
        raise saved_model.invalid_argument(
            "batch_timeout_micros must be non-negative; was "
            f"{round(options.batch_timeout_seconds * 1e6)}"
        )
    if options.max_enqueued_batches < 0:
        raise saved_model.invalid_argument(
            f"max_enqueued_batches must be non-negative; was {options.max_enqueued_batches}"
        )
    if options.max_execution_batch_size > options.max_batch_size:
        raise saved_model.invalid_argument(
            "When enable_large_batch_splitting is true, max_batch_size must be greater than or "
            f"equal to max_execution_batch_size; were {options.max_batch_size} and "
            f"{options.max_execution_batch_size}"
        )
    _check_sizes(options)
    # As TensorFlow does: 0 would refuse every request.
    return dataclasses.replace(options, max_enqueued_batches=max(options.max_enqueued_batches, 1))


def _check_sizes(options: BatchingOptions) -> None:
    sizes = options.allowed_batch_sizes
    if not sizes:
        return
    if any(size < 1 for size in sizes) or any(
        first >= second for first, second in itertools.pairwise(sizes)
    ):
        raise saved_model.invalid_argument(
            "allowed_batch_sizes entries must be monotonically increasing and positive; were "
            f"{list(sizes)}"
        )
    if sizes[-1] != options.max_batch_size:
        raise saved_model.invalid_argument(
            "Last entry in allowed_batch_sizes must match max_batch_size; last entry was "
            f"{sizes[-1]}; expected {options.max_batch_size}"
        )
