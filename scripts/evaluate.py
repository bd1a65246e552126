"""Measures both trained stages, and the way from a request to ten ads, on the test split.

The same as `tfrec evaluate`.
"""

from serving import cli

if __name__ == "__main__":
    cli.run_command("evaluate")
