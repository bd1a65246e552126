"""Paths in this repository."""

import pathlib

ROOT = pathlib.Path(__file__).resolve().parents[2]
SCRIPTS = ROOT / "scripts"
EXAMPLES = ROOT / "examples"
TLS = pathlib.Path(__file__).with_name("tls")
