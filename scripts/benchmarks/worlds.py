"""Measures the whole system on worlds with known truth that are not all built like the models.

    python scripts/benchmarks/worlds.py --worlds=shop --seeds=1 --n_samples=20000 --num_ads=2000
    python scripts/benchmarks/worlds.py

A cell is a world and a seed of the world: its log is written, converted, trained on with the
defaults, and evaluated on its test split. It takes as long as `tfrec train`. The second command
has twelve cells of 100,000 impressions. For requests of the test period, the sums of the true
utilities of these ten ads are compared:

    optimum  the best ten of all ads
    tower    the best ten of the tower's 500
    ranker   the ranker's ten of all ads, unless the catalog is too large to rank
    system   the ten that are returned
    clicks alone   the ten that are returned with the towers as they are before the ranker teaches
                   them: at most three epochs of clicks, and no refit

Prints a row for each cell and a last line of JSON: the shares of the optimum of system, tower and
ranker, each with the least and the mean over cells and, with several seeds, its 95 % interval over
seeds, for all worlds and for each. Each finished cell is kept in WORKDIR/cells, so a killed run
resumes, and a run with more worlds or seeds measures only the new ones. Delete WORKDIR to measure
changed code.
"""

import dataclasses
import pathlib
import shutil
from collections.abc import Sequence
from typing import Any

import numpy as np
import scipy.stats
from absl import flags
from workload import finished_cells, harness

from serving import cli, export, workflow
from tfrec import config, evaluation, metrics, retrieval, training
from tfrecords import synthetic

SHARES = ("system_share_of_optimum", "tower_share", "ranker_share")
QUALITY = (("click", "auc"), ("engagement", "auc"), ("revenue", "normalized_gini"))

flags.DEFINE_list("worlds", list(synthetic.WORLDS), f"Worlds: {', '.join(synthetic.WORLDS)}.")
flags.DEFINE_list("seeds", ["1", "2", "3"], "Seeds of the worlds.")
flags.DEFINE_integer("n_samples", 100_000, "Number of impressions of a log.", lower_bound=1_000)
flags.DEFINE_integer("num_ads", 10_000, "Number of ads of the catalog.", lower_bound=20)
flags.DEFINE_integer("stage1_epochs", None, "Maximum number of epochs of the two-tower model.", 1)
flags.DEFINE_integer("stage2_epochs", None, "Maximum number of epochs of the ranker.", 1)
flags.DEFINE_string("workdir", "workdir/benchmark_worlds", "Work directory for logs and models.")
FLAGS = flags.FLAGS


def main() -> None:
    worlds = harness.flag_names("worlds", synthetic.WORLDS) or list(synthetic.WORLDS)
    seeds = harness.flag_numbers("seeds", "1,2,3")
    cells = []
    for world in worlds:
        for seed in seeds:
            cells.append(finished_cell(world, seed))
            print_table(cells[-1:])
    print_table(cells)
    harness.print_json(summary(cells))


def finished_cell(world: str, seed: int) -> dict[str, Any]:
    """Returns the measurements of a cell; measures it unless it was finished before."""
    world_config = dataclasses.replace(synthetic.WORLDS[world], seed=seed, num_ads=FLAGS.num_ads)
    first = {"epochs": FLAGS.stage1_epochs} if FLAGS.stage1_epochs else {}
    second = {"epochs": FLAGS.stage2_epochs} if FLAGS.stage2_epochs else {}
    configs = (world_config, config.RetrievalConfig(**first), config.RankerConfig(**second))
    workdir = pathlib.Path(FLAGS.workdir)
    directory = workdir / f"{world}-{seed}-{FLAGS.n_samples}-{FLAGS.num_ads}"

    def compute() -> dict[str, Any]:
        cell = {"world": world, "seed": seed, **measure(directory, *configs)}
        for step in ("synthetic", "data"):
            shutil.rmtree(directory / step)
        return cell

    options = (FLAGS.n_samples, config.ConvertConfig(), config.EvaluationConfig())
    return finished_cells.stored(workdir / "cells", directory.name, (configs, options), compute)


def measure(
    directory: pathlib.Path,
    world_config: synthetic.AnyConfig,
    retrieval_config: config.RetrievalConfig,
    ranking_config: config.RankerConfig,
) -> dict[str, Any]:
    """Runs all steps in a work directory, whose finished ones are skipped."""
    steps = export.Pipeline(directory)
    data_set = steps.convert(
        steps.synthesize(FLAGS.n_samples, world_config), config.ConvertConfig()
    )
    stages = workflow.train(data_set, directory, retrieval=retrieval_config, ranking=ranking_config)
    report = stages.evaluate(config.EvaluationConfig())
    return {
        **measurements(report),
        "clicks_alone": shares_of(funnel_of_clicks_alone(steps, stages, retrieval_config)),
        "seconds": stages.steps.seconds(),
    }


def funnel_of_clicks_alone(
    steps: export.Pipeline, stages: workflow.TrainedStages, retrieval_config: config.RetrievalConfig
) -> evaluation.ValueFunnel:
    """Measures the system with the towers as they were before the ranker taught them."""
    data_set = stages.data_set
    towers = retrieval.build_two_tower(data_set, retrieval_config, data_set.catalog())
    training.restore_best(towers, steps.path("retrieval"))
    towers.store_user_clicks()
    models = dataclasses.replace(stages.models, two_tower=towers)
    truth = evaluation.load_ground_truth(steps.truth_of(data_set), data_set)
    return evaluation.evaluate_whole_system(
        data_set, models, truth, None, config.EvaluationConfig()
    )


def measurements(report: evaluation.EvaluationReport) -> dict[str, Any]:
    """Returns the shares of the optimum and the quality of the heads."""
    found = report.funnel.utilities["utility"]
    over = found.over_all_ads
    return {
        "optimum": found.best_possible.value,
        "returned": found.returned.value,
        "lost": {stage: loss.value for stage, loss in found.lost.items()},
        **shares_of(report.funnel),
        "ranker_share": over and over.ranker.value / over.best_possible.value,
        **{
            f"{head}_{name}": report.ranker[head].metrics[name].to_json()
            for head, name in QUALITY
            if head in report.ranker
        },
    }


def shares_of(funnel: evaluation.ValueFunnel) -> dict[str, float]:
    """Returns the shares of the optimum that the candidates and the returned ads have."""
    found = funnel.utilities["utility"]
    best = found.best_possible.value
    return {
        "system_share_of_optimum": found.returned.value / best,
        "tower_share": 1 - found.lost["tower"].value / best,
    }


def summary(cells: list[dict[str, Any]]) -> dict[str, Any]:
    """Returns the shares over cells, and of each world over its seeds."""
    worlds = {cell["world"]: [] for cell in cells}
    for cell in cells:
        worlds[cell["world"]].append(cell)
    result: dict[str, Any] = {"n_samples": FLAGS.n_samples, "num_ads": FLAGS.num_ads}
    measured = [share for share in SHARES if all(cell[share] is not None for cell in cells)]
    for share in measured:
        by_world = [[cell[share] for cell in world_cells] for world_cells in worlds.values()]
        # The seeds are the units: a seed's mean over worlds is one observation.
        result[share] = {"least": min(min(shares) for shares in by_world)}
        result[share] |= mean_over_seeds(np.mean(by_world, axis=0))
    result["worlds"] = {
        world: {share: mean_over_seeds([cell[share] for cell in world_cells]) for share in measured}
        for world, world_cells in worlds.items()
    }
    return {**result, "cells": cells}


def mean_over_seeds(values: Sequence[float]) -> dict[str, Any]:
    """Returns the mean and, of several values, its 95 % interval by Student's distribution."""
    result: dict[str, Any] = {"mean": float(np.mean(values))}
    if len(values) > 1:
        student = scipy.stats.t(len(values) - 1, result["mean"], scipy.stats.sem(values))
        result["interval"] = list(student.interval(metrics.CONFIDENCE))
    return result


def print_table(cells: list[dict[str, Any]]) -> None:
    """Prints a row for each cell; qualities of the ground truth are in brackets."""
    names = [f"{head}_{name}" for head, name in QUALITY]
    rows = []
    for cell in cells:
        row = {**cell, **dict.fromkeys(names), "minutes": sum(cell["seconds"].values()) / 60}
        row["clicks alone"] = cell["clicks_alone"]["system_share_of_optimum"]
        for name in names:
            if "value" in (estimate := cell.get(name, {})):
                row[name] = f"{estimate['value']:.4f} ({estimate['ground_truth']:.4f})"
        rows.append(row)
    columns = {"world": "", "seed": "", "optimum": ".2f", "returned": ".2f"}
    columns |= dict.fromkeys((*SHARES, "clicks alone"), ".3f") | dict.fromkeys(names, "")
    columns["minutes"] = ".1f"
    harness.print_rows(rows, columns)


if __name__ == "__main__":
    cli.run(main)
