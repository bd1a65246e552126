"""Imports TensorFlow without its start-up chatter."""

import importlib
import os
import sys
import tempfile


def import_tensorflow_quietly() -> None:
    """Imports TensorFlow; what it logs on the way is shown only if the import fails.

    TensorFlow writes some lines to the process's standard error before any logging
    setting is read. `TF_CPP_MIN_LOG_LEVEL` set by the user is respected afterwards.
    """
    if "tensorflow" in sys.modules or "TF_CPP_MIN_LOG_LEVEL" in os.environ:
        return
    # The errors left out this way are also raised as Python exceptions.
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    sys.stderr.flush()
    saved = os.dup(2)
    with tempfile.TemporaryFile() as captured:
        os.dup2(captured.fileno(), 2)
        try:
            importlib.import_module("tensorflow")
        except BaseException:
            os.dup2(saved, 2)
            captured.seek(0)
            sys.stderr.write(captured.read().decode(errors="replace"))
            raise
        finally:
            sys.stderr.flush()
            os.dup2(saved, 2)
            os.close(saved)
