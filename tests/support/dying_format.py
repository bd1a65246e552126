"""A log format that kills the first process that reads a log next to a file `kill`."""

import os
import pathlib
import signal

from tfrecords import formats


class Dying(formats.LineFormat):
    def parse_line(self, line):
        directory, country, sku, clicked = line.split(",")
        kill = pathlib.Path(directory, "kill")
        try:
            kill.unlink()
        except FileNotFoundError:
            return {"country": country, "sku": sku, "clicked": float(clicked)}
        os.kill(os.getpid(), signal.SIGKILL)
