"""What icemagic costs beside plain icechunk, and what its stores cost beside netCDF4: ratios within one run.

Run by ``make bench``. The machine's speed cancels out: both sides of a ratio run by turns on the same data, and the
median of each side counts. The exit status is 1 when a ratio is over its limit.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import icechunk
import numpy as np
import xarray as xr
import zarr
from zarr.core.buffer import default_buffer_prototype
from zarr.core.sync import sync

from icemagic import IcechunkStore, preprocess_dataset
from icemagic.provenance import Cell
from icemagic.sample import gnss_day

OBSERVATIONS = Path(__file__).parents[3] / "shared" / "data" / "rosalia_canopy_2025-001_00-06h.nc"
DAY = 17_280  # epochs, one every 5 s
HOUR = slice("2025-01-01T02:00", "2025-01-01T02:59:55")


@dataclass(frozen=True)
class Result:
    """One ratio and the limit that it has to keep."""

    what: str
    ours: float
    other: float
    unit: str
    limit: float

    @property
    def ratio(self) -> float:
        return self.ours / self.other

    def row(self) -> str:
        verdict = "ok" if self.ratio <= self.limit else "OVER"
        sides = f"{self.ours:10.2f} {self.other:10.2f} {self.unit:3}"
        return f"{self.what:66} {sides}  {self.ratio:6.2f}  ≤ {self.limit:4.2f}  {verdict}"


def by_turns(ours: Callable[[int], object], other: Callable[[int], object], rounds: int) -> tuple[float, float]:
    """Return the median milliseconds of each side; the sides take turns, and take turns at being first."""
    times: dict[Callable[[int], object], list[float]] = {ours: [], other: []}
    for turn in range(rounds):
        for side in (ours, other) if turn % 2 else (other, ours):
            start = time.perf_counter()
            side(turn)
            times[side].append((time.perf_counter() - start) * 1000)
    return statistics.median(times[ours]), statistics.median(times[other])


def observations() -> xr.Dataset:
    """Return six hours of real observations where they are at hand, else six generated ones, in memory."""
    raw = xr.open_dataset(OBSERVATIONS) if OBSERVATIONS.exists() else gnss_day("2025-01-01", hours=6)
    return preprocess_dataset(raw.load())


def with_codecs(ds: xr.Dataset) -> dict[str, dict[str, object]]:
    """Return the encoding that gives plain icechunk the same chunks and compression."""
    codec = zarr.codecs.ZstdCodec(level=5)
    return {str(name): {**variable.encoding, "compressors": codec} for name, variable in ds.variables.items()}


def plain(folder: Path) -> icechunk.Repository:
    """Return a new repository of plain icechunk, with the settings that icemagic's configuration has by default."""
    config = icechunk.RepositoryConfig(inline_chunk_threshold_bytes=512, get_partial_values_concurrency=1)
    config.compression = icechunk.CompressionConfig(level=5)
    return icechunk.Repository.create(icechunk.local_filesystem_storage(str(folder)), config=config)


def writing_six_hours(folder: Path) -> Iterator[Result]:
    ds = observations()
    encoding = with_codecs(ds)

    rounds = 40
    stores = [IcechunkStore.create(folder / f"ours-{turn}") for turn in range(rounds)]
    repos = [plain(folder / f"plain-{turn}") for turn in range(rounds)]

    def ours(turn: int) -> None:
        with stores[turn].transaction("six hours"):
            ds.to_zarr(stores[turn])

    def other(turn: int) -> None:
        session = repos[turn].writable_session("main")
        ds.to_zarr(session.store, encoding=encoding, consolidated=False)
        session.commit("six hours")

    yield Result("transaction with six hours / to_zarr on plain icechunk", *by_turns(ours, other, rounds), "ms", 1.03)


def one_chunk_commits(folder: Path) -> Iterator[Result]:
    store = IcechunkStore.create(folder / "ours")
    repo = plain(folder / "plain")
    start = {"name": "x", "shape": (10_000,), "chunks": (10_000,), "dtype": "f8"}
    with store.transaction("start"):
        zarr.create_array(store, **start)
    with repo.transaction("main", message="start") as target:
        zarr.create_array(target, **start)

    cell = Cell('zarr.open_array(store, path="x", mode="r+")[:100] = turn + 1', execution_count=7, notebook="a.ipynb")

    def ours(turn: int) -> None:
        with store.transaction("again", cell=cell):
            zarr.open_array(store, path="x", mode="r+")[:100] = turn + 1

    def other(turn: int) -> None:
        session = repo.writable_session("main")
        zarr.open_array(session.store, path="x", mode="r+")[:100] = turn + 1
        session.commit("again", rebase_with=icechunk.ConflictDetector())

    yield Result("one-chunk commit / plain icechunk", *by_turns(ours, other, 60), "ms", 2.0)
    by_turns(ours, other, 1_900)
    yield Result("one-chunk commit after 2,000 / plain icechunk after 2,000", *by_turns(ours, other, 60), "ms", 1.5)


def opening_and_reading(folder: Path) -> Iterator[Result]:
    store = IcechunkStore.create(folder / "store")
    with store.transaction("six hours"):
        observations().to_zarr(store)

    def ours(_: int) -> None:
        xr.open_zarr(IcechunkStore.open(folder / "store"), chunks=None)["SNR"].sel(epoch=HOUR).load()

    def other(_: int) -> None:
        repo = icechunk.Repository.open(icechunk.local_filesystem_storage(str(folder / "store")))
        session = repo.readonly_session("main")
        xr.open_zarr(session.store, chunks=None, consolidated=False)["SNR"].sel(epoch=HOUR).load()

    yield Result("open and read one hour / plain icechunk", *by_turns(ours, other, 40), "ms", 1.1)


def writing_a_day(folder: Path) -> Iterator[Result]:
    day = gnss_day("2025-01-01").load()
    ready = preprocess_dataset(day)
    zlib = {str(name): {"zlib": True, "complevel": 5} for name in day.data_vars}

    def ours(turn: int) -> None:
        store = IcechunkStore.create(folder / f"day-{turn}")
        with store.transaction("a day"):
            ready.to_zarr(store)

    def other(turn: int) -> None:
        day.to_netcdf(folder / f"day-{turn}.nc", engine="netcdf4", encoding=zlib)

    yield Result("writing a day / netCDF4 with zlib level 5", *by_turns(ours, other, 3), "ms", 1.0)
    stored = sum(path.stat().st_size for path in (folder / "day-0").rglob("*") if path.is_file())
    yield Result("size of the day / netCDF4", stored / 1e6, (folder / "day-0.nc").stat().st_size / 1e6, "MB", 1.0)


def log_of_many(_: Path) -> Iterator[Result]:
    short, long = (_with_commits(number) for number in (100, 10_000))

    yield Result(
        "log(limit=20) of 10,000 commits / of 100",
        *by_turns(lambda _: long.log(limit=20), lambda _: short.log(limit=20), 200),
        "ms",
        1.5,
    )


def _with_commits(number: int) -> IcechunkStore:
    """Return a store with that many versions; the longer the history, the more each further one costs."""
    repo = icechunk.Repository.create(icechunk.in_memory_storage())
    for commit in range(number):
        repo.writable_session("main").commit(f"commit {commit}", allow_empty=True)
    return IcechunkStore.open(repo)


def comparing_chunks(folder: Path) -> Iterator[Result]:
    store, values = IcechunkStore.create(folder / "store"), np.random.default_rng(1)
    for message in ("first", "second"):
        with store.transaction(message):
            array = zarr.create_array(store, name="a", shape=(1000, 1000), chunks=(10, 10), dtype="f8", overwrite=True)
            array[...] = values.random((1000, 1000)).round(3)
    ours, _ = by_turns(lambda _: store.diff(), lambda _: None, 10)
    yield Result("diff of 10,000 chunks, all of them replaced / 0.3 s", ours, 300, "ms", 1.0)


def comparing_a_day_of_a_year(folder: Path) -> Iterator[Result]:
    store = _a_year(folder)
    day = slice(200 * DAY, 201 * DAY)
    with store.transaction("calibrate a day"):
        array = zarr.open_array(store, path="SNR", mode="r+")
        array[day] = array[day] + np.float32(2)
    (changed,) = store.diff(values=True).arrays
    assert changed.changed_chunks == 1
    assert changed.mean == 2

    def versions() -> Iterator[icechunk.IcechunkStore]:
        for ref in ("main~1", "main"):
            yield store.repo.readonly_session(snapshot_id=store.resolve(ref)).store

    def with_xarray(_: int) -> None:
        for version in versions():
            xr.open_zarr(version, consolidated=False, chunks=None)["SNR"].isel(epoch=day).load()

    def with_zarr(_: int) -> None:
        for version in versions():
            zarr.open_array(version, path="SNR", mode="r")[day]

    def ours(_: int) -> None:
        store.diff(values=True)

    yield Result("value diff of a day in a year / reading it twice, xarray", *by_turns(ours, with_xarray, 6), "ms", 1.3)
    yield Result("the same / reading it twice, Zarr without decoding", *by_turns(ours, with_zarr, 12), "ms", 4.0)


def _a_year(folder: Path) -> IcechunkStore:
    """Return a store with a year of SNR in chunks of two days, which all hold the same."""
    days = [gnss_day(date) for date in ("2025-01-01", "2025-01-02")]
    store = IcechunkStore.create(folder / "year")
    with store.transaction("a year"):
        preprocess_dataset(xr.concat(days, "epoch").load())[["SNR"]].to_zarr(store)
        snr, epoch = (zarr.open_array(store, path=path, mode="r+") for path in ("SNR", "epoch"))
        first, step = int(epoch[0]), int(epoch[1] - epoch[0])
        snr.resize((365 * DAY, snr.shape[1]))
        epoch.resize((365 * DAY,))
        epoch[:] = first + step * np.arange(365 * DAY)
        sync(_repeat(store, "SNR/c/0/0", [f"SNR/c/{number}/0" for number in range(1, -(-365 // 2))]))
    return store


async def _repeat(store: IcechunkStore, key: str, others: list[str]) -> None:
    value = await store.get(key, default_buffer_prototype())
    for other in others:
        await store.set(other, value)


def blame_of_many(folder: Path) -> Iterator[Result]:
    side, chunk, rounds = 100, 10, 5
    repo = plain(folder / "plain")
    with repo.transaction("main", message="start") as target:
        start = {"shape": (side * chunk,) * 2, "chunks": (chunk,) * 2, "dtype": "f4", "compressors": None}
        zarr.create_array(target, name="x", **start, dimension_names=("epoch", "sid"))
        for name in ("epoch", "sid"):
            labels = zarr.create_array(
                target, name=name, shape=side * chunk, chunks=chunk, dtype="i8", dimension_names=(name,)
            )
            labels[:] = range(side * chunk)
    buffer = zarr.core.buffer.default_buffer_prototype().buffer
    for commit in range(1_000):
        session = repo.writable_session("main")
        for number in range(10):  # as raw bytes, which is the quickest way to write a chunk
            at = (commit * 10 + number) * 7_919 % side**2  # each chunk once, in no order
            value = buffer.from_bytes(bytes([commit % 251 + 1]) * (4 * chunk**2))
            zarr.core.sync.sync(session.store.set(f"x/c/{at // side}/{at % side}", value))
        session.commit(f"commit {commit}")

    def seconds(repo: icechunk.Repository) -> float:
        begin = time.perf_counter()
        found = IcechunkStore.open(repo).blame("x")
        assert len(found.versions) == 1_000
        found._repr_html_()
        return time.perf_counter() - begin

    storage = icechunk.local_filesystem_storage(str(folder / "plain"))
    first, again = [], []
    for _ in range(rounds):
        fresh = icechunk.Repository.open(storage)
        first.append(seconds(fresh))
        again.append(seconds(fresh))
    yield Result("blame of 10,000 chunks over 1,000 commits / 3 s", statistics.median(first), 3.0, "s", 1.0)
    yield Result("the same again / 0.2 s", statistics.median(again), 0.2, "s", 1.0)


def log_of_an_array(folder: Path) -> Iterator[Result]:
    repo = plain(folder / "store")
    with repo.transaction("main", message="start") as target:
        for name in "ab":
            zarr.create_array(target, name=name, shape=(1_000,), chunks=(10,), dtype="f8")
    for turn in range(1_000):
        with repo.transaction("main", message=f"{turn}") as target:
            zarr.open_array(target, path="ab"[turn % 100 == 0], mode="r+")[turn] = turn + 1
    store = IcechunkStore.open(repo)

    def other(_: int) -> None:
        for info in repo.ancestry(branch="main"):
            repo.inspect_transaction_log(info.id)

    ours, plainly = by_turns(lambda _: store.log(limit=1_000, path="b"), other, 20)
    yield Result("log(path=...) of 1,000 commits / reading their logs one by one", ours, plainly, "ms", 2.0)


def importing(_: Path) -> Iterator[Result]:
    def run(package: str) -> Callable[[int], object]:
        return lambda _: subprocess.run([sys.executable, "-c", f"import {package}"], check=True)

    yield Result("import icemagic / import icechunk", *by_turns(run("icemagic"), run("icechunk"), 20), "ms", 1.15)


BENCHMARKS = (
    writing_six_hours,
    one_chunk_commits,
    opening_and_reading,
    writing_a_day,
    log_of_many,
    log_of_an_array,
    comparing_chunks,
    comparing_a_day_of_a_year,
    blame_of_many,
    importing,
)


def main() -> int:
    os.environ["ICECHUNK_LOG"] = "error"
    icechunk.set_logs_filter("error")
    over = False
    print(f"{'':66} {'icemagic':>10} {'other':>10}       ratio  limit")
    chosen = sys.argv[1:]
    for benchmark in BENCHMARKS:
        if chosen and benchmark.__name__ not in chosen:
            continue
        with tempfile.TemporaryDirectory() as folder:
            for result in benchmark(Path(folder)):
                print(result.row(), flush=True)
                over |= result.ratio > result.limit
    return int(over)


if __name__ == "__main__":
    sys.exit(main())
