"""Logs to data sets: formats, columns, the encoder, conversion, and `tf.data` batches.

Importing the package loads no TensorFlow; it only arranges for TensorFlow to start quietly.
"""

from tfrecords.terminal import quiet_tensorflow

quiet_tensorflow()
