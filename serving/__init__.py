"""Online serving: a release bundle, the orchestrator that answers from it, and its service."""

import os

import tfrecords  # noqa: F401  (TensorFlow starts quietly)

# Threads of faiss that spin while they wait for each other are slow where other processes run. The
# variable is read when faiss is imported.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
