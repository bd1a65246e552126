"""Online serving: a release bundle, the orchestrator that answers from it, and its service."""

import os

import tfrecords  # noqa: F401  (TensorFlow starts quietly)

# By default, waiting threads of faiss spin, which is slow on cores that other processes use. The
# variable is read when faiss is imported.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
