"""Completion without a kernel: what it must never do, whatever is typed and whatever the storage does."""

from __future__ import annotations

import time
from pathlib import Path

import icechunk
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from icechunk.testing import LatencyStorage

from icemagic import IcechunkStore, magics
from icemagic.commands import VERBS
from icemagic.completion import Completer
from shells import WRITE, Typed

_IN_TIME = 0.05


def completer(shell: Typed) -> Completer:
    return magics._loaded[shell.ip].completer


def test_every_option_of_every_verb_is_offered(shell: Typed):
    for verb in VERBS.values():
        options = {name for argument in verb.everything if argument.is_option for name in argument.names}
        long = {name for name in options if name.startswith("--")}
        assert set(shell.complete(f"%ice {verb.name} --")) == (long or {"--"})


def test_bisect_offers_its_options_versions_and_stores(shell: Typed):
    shell.open_memory()
    shell.get('%%commit "it"', WRITE)
    shell.get("%ice tag v1")
    assert shell.complete("%%bisect --") == ["--good", "--bad", "--store"]
    assert shell.complete("%%bisect --good v") == ["v1"]
    assert shell.complete("%%bisect --good v1 --bad HE") == ["HEAD"]
    assert shell.complete("%%bisect --good v1 --") == ["--bad", "--store"]
    assert shell.complete("%%bisect --store s") == ["store"]
    assert "bisect" in shell.complete("%ice help b")


@pytest.fixture
def patient(shell: Typed, monkeypatch: pytest.MonkeyPatch) -> Typed:
    """Return a shell that waits for the storage however busy the machine is."""
    monkeypatch.setattr("icemagic.completion._WAIT", 30)
    return shell


def test_arrays_of_the_version_are_offered_where_one_is_asked_for(patient: Typed):
    shell = patient
    shell.open_memory()
    shell.get(
        '%%commit "it"',
        "for path in ('SNR', 'site/SNR', 'time'):",
        "    zarr.create_array(store, name=path, shape=1, dtype='i1')",
    )
    for line in (
        "blame ",
        "why ",
        "history ",
        "restore main ",
        "guard ",
        "log --path ",
        "diff ",
        "diff main ",
        "diff main HEAD ",
    ):
        assert shell.complete(f"%ice {line}SN")[0] == "SNR", line
        assert shell.complete(f"%ice {line}si") == ["site/SNR"], line


def test_a_diff_is_offered_versions_and_the_open_work(patient: Typed):
    shell = patient
    shell.open_memory()
    assert "WORKING" not in shell.complete("%ice diff WO")
    shell.get("%ice begin")
    assert shell.complete("%ice diff WO") == ["WORKING"]
    assert "main" in shell.complete("%ice diff WORKING ")


def test_an_option_that_was_given_is_not_offered_again(shell: Typed):
    assert shell.complete("%ice open x --create --c") == ["--c"]
    assert "--create" not in shell.complete("%ice open x --create ")


def test_folders_are_offered_for_a_path(shell: Typed, tmp_path: Path):
    for name in ("stores/rosalia/rinex", "stores/rosalia/vod", "store-2", ".hidden"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "stored.txt").write_text("no folder")
    assert shell.complete("%ice open sto") == ["store-2/", "stores/"]
    assert shell.complete("%ice open stores/rosalia/") == ["stores/rosalia/rinex/", "stores/rosalia/vod/"]
    assert shell.complete("%ice open ./store-") == ["./store-2/"]
    assert f"../{tmp_path.name}/" in shell.complete(f"%ice open ../{tmp_path.name[:-1]}")
    assert shell.complete(f"%ice open {tmp_path}/store-") == [f"{tmp_path}/store-2/"]


@pytest.mark.parametrize("path", ["~nosuchuser/", "~nosuchuser/x", "nosuch/x", "\0/x", "s3://bucket/", "https://"])
def test_a_path_that_leads_nowhere_offers_no_folders(shell: Typed, path: str):
    assert completer(shell).candidates(f"open {path}") == []


WORDS = st.sampled_from(
    [
        *VERBS,
        "",
        "~",
        "~nosuchuser/",
        "\0/",
        "../",
        "a/../b",
        "s3://x/",
        "..",
        "a..",
        "@{",
        "--store",
        "--",
        "-n",
        "'",
        '"',
        "nope",
        "é",
    ]
)


# IPython's own completer fails on rare characters that Python takes for spaces.
typed_text = st.text(st.characters().filter(lambda character: character == " " or not character.isspace()), max_size=5)


@given(
    words=st.lists(WORDS | typed_text, max_size=5),
    prefix=st.sampled_from(["%ice ", "x = %ice ", "ice ", '%%commit "m" ', "%%bisect "]),
)
@settings(
    max_examples=50,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
def test_no_line_makes_completion_raise(shell: Typed, words: list[str], prefix: str):
    if "store" not in shell.ip.user_ns:
        shell.open_memory()
        shell.get('%%commit "it"', WRITE)
    completer(shell).candidates(" ".join(words))
    shell.complete(prefix + " ".join(words))


def test_a_repository_that_is_gone_offers_no_refs_and_raises_nothing(shell: Typed, tmp_path: Path):
    shell.get("%ice open place --create")
    (tmp_path / "place").rename(tmp_path / "elsewhere")
    assert shell.complete("%ice checkout ma") == ["ma"]


def test_new_branches_are_offered_once_the_listing_is_old(shell: Typed, monkeypatch: pytest.MonkeyPatch):
    shell.open_memory()
    shell.get('%%commit "it"', WRITE)
    assert shell.complete("%ice switch m") == ["main"]
    shell.get("%ice branch mine")
    monkeypatch.setattr("icemagic.completion._FRESH", 0)
    assert shell.complete("%ice switch m") == ["main", "mine"]


@pytest.fixture
def arrays(shell: Typed) -> Typed:
    """Return a shell whose store holds arrays in two groups."""
    shell.open_memory()
    names = ("SNR", "canopy/SNR", "canopy/sid")
    shell.get('%%commit "arrays"', *(f"zarr.create_array(store, name={name!r}, shape=1, dtype='i1')" for name in names))
    return shell


@pytest.mark.parametrize("typed", ["blame ", "why ", "history ", "restore HEAD ", "guard ", "blame --sel t=1 "])
def test_arrays_of_the_version_are_offered_where_an_array_is_expected(arrays: Typed, typed: str):
    assert {"SNR", "canopy/SNR", "canopy/sid"} <= set(arrays.complete(f"%ice {typed}"))
    assert arrays.complete(f"%ice {typed}canopy/s") == ["canopy/SNR", "canopy/sid"]
    assert "canopy" not in arrays.complete(f"%ice {typed}")


def test_after_the_array_come_versions_and_after_labels_nothing(arrays: Typed):
    assert arrays.complete("%ice blame SNR m") == ["main"]
    assert arrays.complete("%ice history SNR m") == ["m"]
    assert arrays.complete("%ice history SNR epoch=1 --version m") == ["main"]


def test_arrays_are_those_of_the_version_on_which_the_store_stands(arrays: Typed):
    assert arrays.complete("%ice blame n") == ["n"]
    arrays.get('%%commit "more"', "zarr.create_array(store, name='new', shape=1, dtype='i1')")
    assert arrays.complete("%ice blame n") == ["new"]
    arrays.get("%ice checkout HEAD~1")
    assert arrays.complete("%ice blame n") == ["n"]


def test_arrays_of_an_empty_store_and_of_format_1_are_offered(patient: Typed):
    shell = patient
    shell.open_memory()
    assert shell.complete("%ice blame S") == ["S"]
    repo = icechunk.Repository.create(icechunk.in_memory_storage(), spec_version=1)
    shell.ip.user_ns["store"] = IcechunkStore.open(repo)
    shell.get('%%commit "one"', "zarr.create_array(store, name='SNR', shape=1, dtype='i1')")
    assert shell.complete("%ice blame S") == ["SNR"]


def test_a_slow_storage_holds_up_no_key_press_and_is_asked_once_at_a_time(shell: Typed):
    storage = LatencyStorage(icechunk.in_memory_storage())
    store = shell.ip.user_ns["store"] = IcechunkStore.open(icechunk.Repository.create(storage))
    shell.get('%%commit "it"', WRITE)
    shell.complete("x")
    storage.read_latency_ms = 500
    times = []
    for _ in range(5):
        started = time.perf_counter()
        assert shell.complete("%ice checkout ma") == ["ma"]
        times.append(time.perf_counter() - started)
    assert sorted(times)[2] < _IN_TIME
    listing = completer(shell)._listings[store.repo]
    assert completer(shell)._pool._work_queue.qsize() == 0
    assert listing.pending is not None
    listing.pending.result(timeout=30)
    assert shell.complete("%ice checkout ma") == ["main"]


def test_unloading_ends_the_thread(shell: Typed):
    shell.open_memory()
    shell.complete("%ice switch m")
    (thread,) = completer(shell)._pool._threads
    shell.get("%unload_ext icemagic")
    thread.join(timeout=10)
    assert not thread.is_alive()
