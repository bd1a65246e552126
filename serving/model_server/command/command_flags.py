"""The model server's flags: those of `tensorflow_model_server`, and three of its own.

References: TensorFlow Serving, `model_servers/main.cc` (all flags of mid-2026).
"""

import sys
from collections.abc import Iterator, Sequence

from absl import flags

from serving.model_server.command import flag_definitions

Default = bool | int | str
# What TensorFlow Serving knows and this server has no use for, each with the reason.
WITHOUT_EFFECT: dict[str, tuple[Default, str]] = {
    "num_load_threads": (0, "models load one after the other, beside the requests"),
    "num_unload_threads": (0, "models unload one after the other, beside the requests"),
    "flush_filesystem_caches": (True, "the operating system keeps its file cache"),
    "remove_unused_fields_from_bundle_metagraph": (True, "only signatures are kept anyway"),
    "xla_cpu_compilation_enabled": (False, "models run as TensorFlow compiles them by default"),
    "xla_gpu_compilation_enabled": (False, "models run as TensorFlow compiles them by default"),
    "thread_pool_factory_config_file": ("", "requests run on the session's own threads"),
    "mixed_precision": ("", "see --bfloat16"),
    "skip_initialize_tpu": (False, "there is no TPU support"),
}
# What would be unsafe to pass over.
_REFUSED: dict[str, tuple[Default, str]] = {
    "use_alts_credentials": (False, "ALTS is not supported; --ssl_config_file is"),
    "platform_config_file": (
        "",
        "only the platform tensorflow is served; --batching_parameters_file and "
        "--tensorflow_session_config_file set what such a file could",
    ),
}


def define(values: flags.FlagValues = flags.FLAGS) -> None:
    """Defines the flags; a call, not the import, so that libraries may import the server."""
    define = flag_definitions.Definer(values)
    flag_definitions.define_all(define)
    for name, (default, reason) in (WITHOUT_EFFECT | _REFUSED).items():
        kind = "Refused" if name in _REFUSED else "Accepted without effect"
        _define_like(define, name, default, f"{kind}: {reason}.")


def parse(argv: Sequence[str], values: flags.FlagValues = flags.FLAGS) -> list[str]:
    """Parses the command line as absl does, and refuses flags in TensorFlow Serving's words.

    Returns:
        What is left of the command line.
    """
    try:
        rest = values(list(argv))
        for name, (default, reason) in _REFUSED.items():
            if values[name].value != default:
                raise flags.IllegalFlagValueError(f"--{name} is refused: {reason}")
        return rest
    except flags.UnrecognizedFlagError as error:
        message = f"unknown argument: --{error.flagname}\n{error}. --help lists the flags"
    except flags.Error as error:
        message = f"{error}. --help lists the flags"
    print(message, file=sys.stderr)
    raise SystemExit(1)


def without_effect(values: flags.FlagValues = flags.FLAGS) -> Iterator[str]:
    """Yields a line for each flag given that has no effect."""
    for name, (_, reason) in WITHOUT_EFFECT.items():
        if values[name].present:
            yield f"--{name} has no effect here: {reason}"


def _define_like(
    define: flag_definitions.Definer, name: str, default: Default, help_text: str
) -> None:
    if isinstance(default, bool):
        define.boolean(name, default, help_text)
    elif isinstance(default, int):
        define.integer(name, default, help_text)
    else:
        define.string(name, default, help_text)
