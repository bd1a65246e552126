"""Conversions on clusters write the same bytes as local ones."""

import contextlib
import os
import pathlib
import subprocess
import sys

import beam_logs
import logs
import pytest
import requirements
import serving_fixtures

pytest.importorskip("apache_beam", reason=requirements.NO_BEAM)

from tfrecords import beam, convert, schema

pytestmark = pytest.mark.engines


@contextlib.contextmanager
def dask_cluster(tmp_path):
    """Two worker processes; yields Beam's options."""
    import distributed

    with distributed.LocalCluster(
        n_workers=2,
        threads_per_worker=1,
        processes=True,
        dashboard_address="127.0.0.1:0",
        local_directory=str(tmp_path / "dask"),
    ) as cluster:
        yield (
            "--runner=DaskRunner",
            f"--dask_client_address={cluster.scheduler_address}",
        )


@contextlib.contextmanager
def worker_pool(tmp_path):
    """A pool that starts worker processes, as Flink's and Spark's job servers use it."""
    port = serving_fixtures.free_port()
    environment = {
        **os.environ,
        "PATH": f"{pathlib.Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }
    with (tmp_path / "pool.log").open("wb") as log:
        pool = subprocess.Popen(
            [
                *(sys.executable, "-m", "apache_beam.runners.worker.worker_pool_main"),
                f"--service_port={port}",
            ],
            env=environment,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        try:
            yield (
                "--runner=PortableRunner",
                "--job_endpoint=embed",
                "--environment_type=EXTERNAL",
                f"--environment_config=localhost:{port}",
            )
        finally:
            pool.terminate()
            pool.wait()


@pytest.fixture(params=[dask_cluster, worker_pool], ids=["dask", "portable"])
def cluster(request, tmp_path):
    with request.param(tmp_path) as options:
        yield options


def test_a_log_is_converted_to_the_same_bytes(cluster, tmp_path):
    local, on_cluster = beam_logs.converted_both_ways(
        beam_logs.plain_log(tmp_path), tmp_path, cluster
    )
    assert local == on_cluster


def test_scattered_requests_and_sampled_negatives_are_the_same(cluster, tmp_path):
    local, on_cluster = beam_logs.converted_both_ways(
        beam_logs.shop(tmp_path, "csv"),
        tmp_path,
        cluster,
        split="leave_last_out",
        sampled_negatives=2,
        seed=5,
    )
    assert local == on_cluster


def test_the_chunks_of_a_killed_worker_are_converted_by_another(tmp_path):
    lines = [f"{tmp_path},{['de', 'fr'][i % 2]},{i % 7},{i % 3 % 2}" for i in range(400)]
    (tmp_path / "log.txt").write_text("\n".join(lines) + "\n")
    fields = (
        schema.Field("country", "categorical", "query"),
        schema.Field("sku", "categorical", "ad"),
    )
    source = convert.Source(
        tmp_path / "log.txt",
        schema.Schema("dying", fields, ("sku",), "clicked"),
        "dying_format:Dying",
        rows_per_chunk=100,
    )
    convert.convert(source, tmp_path / "local")
    (tmp_path / "kill").touch()
    with dask_cluster(tmp_path) as options:
        convert.convert(beam.on_beam(source, tmp_path / "beam", options), tmp_path / "beam")
    assert not (tmp_path / "kill").exists()
    assert logs.files(tmp_path / "beam") == logs.files(tmp_path / "local")
