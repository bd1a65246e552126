"""Writes the models.config of TensorFlow Serving for a bundle: versions and labels.

The same as `tfrec model_config`.
"""

from serving import cli

if __name__ == "__main__":
    cli.run_command("model_config")
