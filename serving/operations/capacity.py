"""Sizes a deployment: machines, memory and network for numbers of ads, requests and users.

Constants are measured by `scripts/benchmarks/http_service.py --constants=FILE` on one machine, for
one number of ads. Everything else follows from them by arithmetic, and each figure says which of
the two it is.
"""

import dataclasses
import json
import math
import pathlib
from typing import Self

# For a low p99, machines are idle half of the time.
UTILIZATION = 0.5
# Share of memory for releases N and N−1 during a change; the system needs the rest.
_MEMORY_SHARE = 0.7
_CORES_PER_PROCESS = 2
# HNSW in Milvus: 2 M = 32 links per node on the lowest level, 4 bytes each.
_MILVUS_LINK_BYTES = 128
_NUM_CANDIDATES = 500
MEASURED, CALCULATED = "measured", "calculated"


@dataclasses.dataclass(frozen=True)
class MeasuredConstants:
    """The costs of a deployment, measured with a catalog of `num_ads`.

    Attributes:
        machine: The machine in words.
        date: Day of the measurement.
        command: Command of the measurement.
        num_ads: Number of ads.
        dimension: Embedding size.
        index: FAISS factory string of the index.
        index_bytes_per_ad: Size of the index file, memory-mapped and shared by processes.
        row_bytes_per_ad: Size of features, ids and fields to show, memory-mapped and shared.
        private_bytes_per_ad: Private memory of each process of the service.
        process_bytes: Memory of a process of the service without ads.
        search_cpu_ms: Processor time of a search for 500 ads.
        service_cpu_ms: Processor time of a request in the service, including the search.
        ranker_cpu_ms: Processor time of a request with 500 candidates in the model server.
        num_columns: Number of columns of ad features, sent to the ranker for 500 ads.
        num_outputs: Number of scores that the ranker returns per ad.
        request_bytes: Size of a request over HTTP.
        answer_bytes: Size of an answer with ten ads.
        store_bytes_per_user: Kind of user store -> memory or disk space of a user with 50 events.
    """

    machine: str
    date: str
    command: str
    num_ads: int
    dimension: int
    index: str
    index_bytes_per_ad: float
    row_bytes_per_ad: float
    private_bytes_per_ad: float
    process_bytes: float
    search_cpu_ms: float
    service_cpu_ms: float
    ranker_cpu_ms: float
    num_columns: int
    num_outputs: int
    request_bytes: float
    answer_bytes: float
    store_bytes_per_user: dict[str, float] = dataclasses.field(default_factory=dict)

    @classmethod
    def load(cls, path: pathlib.Path | None = None) -> Self:
        """Reads constants.

        Args:
            path: File written by `scripts/benchmarks/http_service.py`; None: this package's file.

        Raises:
            FileNotFoundError: The file does not exist.
            ValueError: The file does not contain constants.
        """
        path = path or pathlib.Path(__file__).with_name("measured_constants.json")
        if not path.is_file():
            raise FileNotFoundError(
                f"{path} is not a file; expected constants that "
                "scripts/benchmarks/http_service.py --constants=FILE wrote."
            )
        try:
            return cls(**json.loads(path.read_text(encoding="utf-8")))
        except (ValueError, TypeError) as error:
            raise ValueError(
                f"{path}: expected constants that scripts/benchmarks/http_service.py "
                f"--constants=FILE wrote, got other content ({error})."
            ) from error


@dataclasses.dataclass(frozen=True)
class Machine:
    """A machine to deploy on.

    Attributes:
        cores: Number of cores, as fast as the measured ones.
        memory_bytes: Memory.
    """

    cores: int
    memory_bytes: float


@dataclasses.dataclass(frozen=True)
class Figure:
    """A line of the result.

    Attributes:
        part: Part of the deployment.
        name: Counted quantity.
        value: Its value.
        how: Derivation.
        unit: Unit of the value; empty for a plain number.
        source: `measured` or `calculated`.
    """

    part: str
    name: str
    value: float
    how: str
    unit: str = ""
    source: str = CALCULATED


def size_deployment(
    constants: MeasuredConstants,
    num_ads: int,
    requests_per_second: float,
    num_users: int,
    machine: Machine,
) -> list[Figure]:
    """Estimates the resources of a deployment.

    Args:
        constants: Measured constants.
        num_ads: Number of ads.
        requests_per_second: Number of requests per second.
        num_users: Number of users in the user store; 0: no user store.
        machine: The machines.
    """
    index = _index(constants, num_ads, machine)
    orchestrators = _orchestrators(constants, num_ads, requests_per_second, machine)
    rankers = _rankers(constants, requests_per_second, machine)
    return [
        *index,
        *orchestrators,
        *rankers,
        *_network(constants, requests_per_second),
        *(_users(constants, num_users) if num_users else ()),
    ]


def fits_one_machine(constants: MeasuredConstants, num_ads: int, machine: Machine) -> bool:
    """Returns whether two releases of the index, with a process each, fit a machine."""
    return 2 * _machine_bytes(constants, num_ads, 1) <= _MEMORY_SHARE * machine.memory_bytes


def cost_drivers(figures: list[Figure]) -> list[tuple[str, float]]:
    """Returns the share of all machines that each part needs, the largest first."""
    machines = {f.part: f.value for f in figures if f.name == "machines"}
    total = sum(machines.values())
    shares = [(part, count / total) for part, count in machines.items()]
    return sorted(shares, key=lambda share: -share[1])


def _machine_bytes(constants: MeasuredConstants, num_ads: int, processes: int) -> float:
    shared = num_ads * (constants.index_bytes_per_ad + constants.row_bytes_per_ad)
    bytes_per_process = constants.process_bytes + num_ads * constants.private_bytes_per_ad
    return shared + processes * bytes_per_process


def _search_ms(constants: MeasuredConstants, num_ads: int) -> float:
    # The number of cells grows with √N, and so does the number of ads in each cell.
    return constants.search_cpu_ms * math.sqrt(num_ads / constants.num_ads)


def _index(constants: MeasuredConstants, num_ads: int, machine: Machine) -> list[Figure]:
    per_ad = constants.index_bytes_per_ad
    source = MEASURED if num_ads == constants.num_ads else CALCULATED
    memory = f"{per_ad:.0f} B per ad at {constants.num_ads:,} ads, {constants.index}"
    search = f"{constants.search_cpu_ms:.2f} ms at {constants.num_ads:,} ads, grows with √N"
    figures = [
        Figure(
            "index",
            "memory of the index, shared by processes",
            num_ads * per_ad,
            memory,
            "B",
            source,
        ),
        Figure(
            "index",
            "processor time of a search for 500 ads",
            _search_ms(constants, num_ads),
            search,
            "ms",
            source,
        ),
    ]
    if fits_one_machine(constants, num_ads, machine):
        return figures
    per_ad = 4 * constants.dimension + _MILVUS_LINK_BYTES
    in_milvus = num_ads * per_ad
    return [
        *figures,
        Figure(
            "Milvus",
            "memory of an HNSW index, since FAISS does not fit one machine",
            in_milvus,
            f"{per_ad} B per ad: {constants.dimension} floats and links; DiskANN needs less",
            "B",
        ),
        Figure(
            "Milvus",
            "machines",
            math.ceil(2 * in_milvus / (_MEMORY_SHARE * machine.memory_bytes)),
            f"two releases in {_MEMORY_SHARE:.0%} of their memory; cores for searches not measured",
        ),
    ]


def _orchestrators(
    constants: MeasuredConstants, num_ads: int, requests_per_second: float, machine: Machine
) -> list[Figure]:
    in_process = fits_one_machine(constants, num_ads, machine)
    rest_ms = constants.service_cpu_ms - constants.search_cpu_ms
    request_ms = rest_ms + (_search_ms(constants, num_ads) if in_process else 0.0)
    cores = requests_per_second * request_ms / 1000 / UTILIZATION
    needed = math.ceil(cores / _CORES_PER_PROCESS)
    possible = machine.cores // _CORES_PER_PROCESS
    if in_process:
        possible = min(possible, _processes(constants, num_ads, machine))
    processes = max(1, min(needed, possible))
    usable = min(machine.cores, processes * _CORES_PER_PROCESS)
    memory = (
        2 * _machine_bytes(constants, num_ads, processes)
        if in_process
        else num_ads * constants.row_bytes_per_ad + processes * constants.process_bytes
    )
    derivation = f"processes: {processes}"
    derivation += ", two releases during a change" if in_process else "; ads' rows are mapped"
    if memory > _MEMORY_SHARE * machine.memory_bytes:
        derivation += "; DOES NOT FIT a machine"
    machines = _with_spare(cores / usable)
    load = f"{request_ms:.1f} ms of a core per request, at {UTILIZATION:.0%} load"
    return [
        Figure("orchestrators", "cores", cores, load),
        Figure("orchestrators", "memory of a machine", memory, derivation, "B"),
        Figure("orchestrators", "machines", machines, f"{usable} usable cores each, and a spare"),
    ]


def _processes(constants: MeasuredConstants, num_ads: int, machine: Machine) -> int:
    """Returns the number of processes that fit a machine's memory during a release change."""
    shared = _machine_bytes(constants, num_ads, 0)
    bytes_per_process = _machine_bytes(constants, num_ads, 1) - shared
    return int((_MEMORY_SHARE * machine.memory_bytes / 2 - shared) / bytes_per_process)


def _rankers(
    constants: MeasuredConstants, requests_per_second: float, machine: Machine
) -> list[Figure]:
    cores = requests_per_second * constants.ranker_cpu_ms / 1000 / UTILIZATION
    machines = _with_spare(cores / machine.cores)
    load = (
        f"{constants.ranker_cpu_ms:.1f} ms of a core per request with 500 candidates, at "
        f"{UTILIZATION:.0%} load; a GPU was not measured"
    )
    return [
        Figure("rankers", "cores", cores, load),
        Figure("rankers", "machines", machines, f"{machine.cores} cores each, and a spare"),
    ]


def _network(constants: MeasuredConstants, requests_per_second: float) -> list[Figure]:
    columns, outputs = constants.num_columns, constants.num_outputs
    sizes = {
        "to the rankers": (
            4 * _NUM_CANDIDATES * columns + constants.request_bytes,
            f"{_NUM_CANDIDATES} ads × {columns} columns of 4 B, and the request",
        ),
        "from the rankers": (
            4 * _NUM_CANDIDATES * outputs,
            f"{_NUM_CANDIDATES} ads × {outputs} scores of 4 B",
        ),
        "answers": (constants.answer_bytes, f"{constants.answer_bytes:,.0f} B each, measured"),
    }
    return [
        Figure("network", name, requests_per_second * size * 8 / 1e9, how, "Gbit/s")
        for name, (size, how) in sizes.items()
    ]


def _users(constants: MeasuredConstants, num_users: int) -> list[Figure]:
    return [
        Figure(
            "user store",
            f"size in {store}",
            num_users * size,
            f"{size:,.0f} B per user with a profile and 50 events, measured"
            + ("; for one host" if store == "SQLite" else ""),
            "B",
        )
        for store, size in constants.store_bytes_per_user.items()
    ]


def _with_spare(machines: float) -> int:
    return math.ceil(machines) + 1
