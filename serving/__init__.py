"""Online serving: a release bundle, the orchestrator that answers from it, and its service."""

import tfrecords  # noqa: F401  (TensorFlow starts quietly)
