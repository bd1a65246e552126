"""Logs to data sets: formats, columns, the encoder, conversion, and `tf.data` batches.

Importing the package does not load TensorFlow; it only suppresses TensorFlow's start messages.
"""

from tfrecords.terminal import quiet_tensorflow

quiet_tensorflow()
