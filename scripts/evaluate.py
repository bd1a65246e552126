"""Measures both trained stages and the funnel from a request to ten ads.

The same as `tfrec evaluate`.
"""

from serving import cli

if __name__ == "__main__":
    cli.run_command("evaluate")
