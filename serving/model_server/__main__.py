"""Runs the model server: `python -m serving.model_server`; --help lists its flags."""

from serving import process
from serving.model_server import command

process.share_heaps()
command.run()
