"""Writes the models.config of TensorFlow Serving for a bundle: versions and labels.

The same as `tfrec model_config`.
"""

import launch

if __name__ == "__main__":
    launch.command("model_config")
