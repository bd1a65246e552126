"""The size of a deployment follows from measured constants."""

import dataclasses
import json

import pytest
from absl import flags

from serving import operations

CONSTANTS = operations.MeasuredConstants(
    machine="2 cores",
    date="2026-01-01",
    command="capacity.py",
    num_ads=1_000_000,
    dimension=256,
    index="IVF",
    index_bytes_per_ad=300.0,
    row_bytes_per_ad=100.0,
    private_bytes_per_ad=200.0,
    process_bytes=3e8,
    search_cpu_ms=1.0,
    service_cpu_ms=8.0,
    ranker_cpu_ms=10.0,
    num_columns=6,
    num_outputs=3,
    request_bytes=200,
    answer_bytes=4000,
    store_bytes_per_user={"SQLite": 500.0},
)
MACHINE = operations.Machine(cores=32, memory_bytes=128e9)


def sized(num_ads=1_000_000, rps=1_000.0, users=0, machine=MACHINE):
    figures = operations.size_deployment(CONSTANTS, num_ads, rps, users, machine)
    return {(figure.part, figure.name): figure for figure in figures}


def test_what_was_measured_is_marked_and_everything_else_is_calculated():
    measured = sized()
    assert {f.name for f in measured.values() if f.source == "measured"} == {
        "memory of the index, shared by processes",
        "processor time of a search for 500 ads",
    }
    assert all(figure.source == "calculated" for figure in sized(2_000_000).values())


def test_cores_follow_from_processor_time_at_half_load():
    found = sized(rps=1_000)
    # 8 ms and 10 ms of a core per request, at half load.
    assert found["orchestrators", "cores"].value == pytest.approx(16)
    assert found["rankers", "cores"].value == pytest.approx(20)
    # Machines with 32 cores each, and a spare.
    assert found["orchestrators", "machines"].value == 2
    assert found["rankers", "machines"].value == 2
    assert sized(rps=10_000)["rankers", "machines"].value == 8


def test_the_time_of_a_search_grows_with_the_square_root_of_the_ads():
    found = sized(4_000_000, rps=1_000)
    assert found["index", "processor time of a search for 500 ads"].value == pytest.approx(2.0)
    # One more millisecond per request.
    assert found["orchestrators", "cores"].value == pytest.approx(18)


def test_few_requests_need_one_process_and_its_memory_twice():
    found = sized(rps=10)["orchestrators", "memory of a machine"].value
    assert found == pytest.approx(2 * (4e8 + 3e8 + 2e8))


def test_an_index_that_fits_no_machine_goes_to_milvus():
    small = operations.Machine(cores=8, memory_bytes=16e9)
    assert ("Milvus", "machines") not in sized(5_000_000, machine=small)
    found = sized(1_000_000_000, machine=small)
    # 256 floats and links, twice, in 70 % of 16 GB.
    assert found["Milvus", "machines"].value == 206
    # The rows of the ads are mapped, and the search is elsewhere.
    assert found["orchestrators", "cores"].value == pytest.approx(14)


def test_traffic_and_users():
    found = sized(rps=1_000, users=1_000_000)
    to_rankers = (500 * 6 * 4 + 200) * 8 * 1_000 / 1e9
    assert found["network", "to the rankers"].value == pytest.approx(to_rankers)
    assert found["network", "from the rankers"].value == pytest.approx(0.048)
    assert found["user store", "size in SQLite"].value == 5e8


def test_shares_of_the_machines_are_in_descending_order_and_sum_to_one():
    figures = operations.size_deployment(CONSTANTS, 1_000_000, 100_000.0, 0, MACHINE)
    drivers = operations.cost_drivers(figures)
    assert [part for part, _ in drivers] == ["rankers", "orchestrators"]
    assert sum(share for _, share in drivers) == pytest.approx(1)


def test_constants_are_read_from_a_file_and_other_content_is_refused(tmp_path):
    path = tmp_path / "constants.json"
    path.write_text(json.dumps(dataclasses.asdict(CONSTANTS)))
    assert operations.MeasuredConstants.load(path) == CONSTANTS
    path.write_text('{"machine": "x"}')
    with pytest.raises(ValueError, match=r"expected constants that .* --constants=FILE wrote"):
        operations.MeasuredConstants.load(path)
    with pytest.raises(FileNotFoundError, match=r"missing\.json is not a file; expected const"):
        operations.MeasuredConstants.load(tmp_path / "missing.json")


def test_the_package_has_constants():
    assert operations.MeasuredConstants.load().num_ads == 1_000_000


@pytest.mark.parametrize(
    ("arguments", "first", "network"),
    [
        # An answer has 3,807 B: 3,807 · 8 · 10^6 / 10^9 = 30.46 Gbit/s.
        (
            ("--rps=1000000", "--machine_gb=1500000"),
            "1,000,000 ads, 1,000,000 requests/s, 0 users; machines of 32 cores and 1,500,000 GB",
            "30.5 Gbit/s",
        ),
        (
            ("--rps=0.5", "--ads=2000000"),
            "2,000,000 ads, 0.5 requests/s, 0 users; machines of 32 cores and 128 GB",
            "0.0000152 Gbit/s",
        ),
        (
            ("--rps=1000000000",),
            "1,000,000 ads, 1,000,000,000 requests/s, 0 users; machines of 32 cores and 128 GB",
            "30,456 Gbit/s",
        ),
    ],
)
def test_the_command_prints_large_and_small_numbers_without_exponents(
    arguments, first, network, script, capsys
):
    command = script("serving.cli.online.size")
    flags.FLAGS(["size", *arguments])
    command.main()
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == first
    assert network in next(line for line in lines if line.startswith("network        answers"))
