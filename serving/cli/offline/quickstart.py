"""Runs all steps from a log to ten ranked ads.

    tfrec quickstart
    tfrec quickstart --data_path=train.txt

Generates a shop log with known ground truth (or reads yours), converts it, trains and evaluates
both stages, exports a release bundle, serves it on loopback and requests ten ads. Takes a few
minutes on two cores for 100,000 impressions. A second run takes seconds, because finished steps are
skipped.
"""

import asyncio
import os
import pathlib
import shutil
import sys
import time

import numpy as np
from absl import flags

from serving.cli.offline import train
from serving.requests import Request
from tfrecords import formats, terminal

FLAGS = flags.FLAGS
flags.adopt_module_key_flags(train)
FLAGS.set_default("workdir", None)
FLAGS["workdir"].help = "Work directory; default: workdir/quickstart, or one named after the log."
_TIMED_REQUESTS = 200


def main() -> None:
    from tfrec import reports

    if not FLAGS.data_path:
        FLAGS["use_synthetic"].value = True
    workdir = pathlib.Path(FLAGS.workdir) if FLAGS.workdir else _workdir_of(FLAGS.data_path)
    stages = train.train(workdir)
    steps = stages.steps
    samples = [Request(context=fields) for fields in stages.data_set.sample_requests()]
    asyncio.run(_recommend(steps.path("bundle"), samples))
    print(reports.step_times(steps.seconds()))
    print(f"Serve it:  {_installed('tfrec')} serve --workdir={workdir}")
    print(f"Curves:    {_installed('tensorboard')} --logdir={workdir}")


def _installed(program: str) -> str:
    """Returns the command for a program that was installed with this one."""
    if shutil.which(program):
        return program
    return os.path.relpath(pathlib.Path(sys.executable).with_name(program))


def _workdir_of(data_path: str | None) -> pathlib.Path:
    """Returns a work directory for the log that no other log uses."""
    from serving import export

    if not data_path:
        return pathlib.Path("workdir/quickstart")
    log = formats.expand_paths(data_path)[0].resolve()
    workdir = pathlib.Path("workdir") / log.name.split(".")[0]
    number = 1
    while (used := export.Pipeline(workdir).log()) and not used.startswith(str(log)):
        number += 1
        workdir = pathlib.Path("workdir") / f"{log.name.split('.')[0]}-{number}"
    return workdir


async def _recommend(base: pathlib.Path, requests: list[Request]) -> None:
    from serving import operations

    async with operations.open_service(base, None, None) as service:
        await service.verify_ranker()
        answer = await service.recommend(requests[0])
        print("Ten ranked ads for a held-out request")
        print(operations.describe_answer(answer))
        totals, stages = [], []
        for index in range(_TIMED_REQUESTS):
            started = time.perf_counter()
            timed = await service.recommend(requests[index % len(requests)])
            totals.append(1e3 * (time.perf_counter() - started))
            stages.append(timed.stage_ms)
        print(f"Latency of {_TIMED_REQUESTS} consecutive requests")
        times = {stage: [stage_ms[stage] for stage_ms in stages] for stage in stages[0]}
        rows = [
            [f"  {stage}", *(f"{value:.2f}" for value in np.percentile(values, [50, 99]))]
            for stage, values in {**times, "measured by the caller": totals}.items()
        ]
        print(terminal.text_table(["", "p50 ms", "p99 ms"], rows))
