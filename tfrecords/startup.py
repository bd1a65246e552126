"""Imports TensorFlow without its start-up chatter."""

import importlib
import os
import sys
import tempfile


def import_tensorflow_quietly() -> None:
    """Imports TensorFlow; what it logs on the way is shown only if the import fails.

    TensorFlow writes some lines to the process's standard error before any logging
    setting is read. `TF_CPP_MIN_LOG_LEVEL=0` in the environment shows everything.
    """
    # The errors that level 3 leaves out are also raised as Python exceptions.
    level = os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    if "tensorflow" in sys.modules or level == "0":
        return
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
