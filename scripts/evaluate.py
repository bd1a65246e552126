"""Measures both trained stages and the funnel from a request to ten ads.

The same as `tfrec evaluate`.
"""

import launch

if __name__ == "__main__":
    launch.command("evaluate")
