"""Settings: where they come from, what is refused, and that each reaches what it is for."""

from __future__ import annotations

import pickle
import time
from pathlib import Path
from typing import Any

import icechunk
import numpy as np
import pytest
import zarr
from hypothesis import given
from hypothesis import strategies as st

from icemagic.config import FILE, LEVELS, VARIABLE, Config, load_config
from icemagic.errors import ConfigError

SHIPPED = Path(__file__).parents[1] / FILE
ISSUE = """\
icechunk:
  compression_algorithm: zstd
  compression_level: 5
  inline_threshold: 512
  get_concurrency: 1
  chunk_strategies:
    rinex: {epoch: 34560, sid: -1}
    vod:   {epoch: 34560, sid: -1}
"""


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Stand in an empty folder, with no configuration named."""
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(text: str, path: str = "config/processing.yaml") -> Path:
    file = Path(path)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text, encoding="utf-8")
    return file


def refusal(text: str) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        load_config(write(text))
    return caught.value


class TestSearch:
    def test_an_argument_goes_before_the_variable_before_the_nearest_file_before_the_defaults(
        self, here: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        assert load_config() == Config()
        write("icechunk: {compression_level: 3}")
        (here / "deep" / "deeper").mkdir(parents=True)
        monkeypatch.chdir(here / "deep" / "deeper")
        assert load_config().compression_level == 3
        write("icechunk: {compression_level: 4}", str(here / "deep" / FILE))
        assert load_config().compression_level == 4
        monkeypatch.setenv(VARIABLE, str(write("icechunk: {compression_level: 6}", "named.yaml")))
        assert load_config().compression_level == 6
        assert load_config(write("icechunk: {compression_level: 7}", "given.yaml")).compression_level == 7

    def test_an_empty_variable_names_nothing(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv(VARIABLE, "")
        assert load_config() == Config()

    def test_a_tilde_is_the_home_folder(self, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("HOME", str(here))
        monkeypatch.setenv("USERPROFILE", str(here))
        write("author: Ada", "mine.yaml")
        assert load_config("~/mine.yaml").author == "Ada"

    def test_a_named_file_that_is_not_there_is_an_error(self, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        for missing in ("none.yaml", Path("none.yaml"), "", here):
            with pytest.raises(ConfigError, match="There is no configuration file"):
                load_config(missing)
        monkeypatch.setenv(VARIABLE, "none.yaml")
        with pytest.raises(ConfigError, match=VARIABLE):
            load_config()

    def test_an_edit_counts_at_once(self) -> None:
        for level in (3, 4, 3):
            write(f"icechunk: {{compression_level: {level}}}")
            assert load_config().compression_level == level

    def test_reading_costs_less_than_two_milliseconds(self) -> None:
        durations = []
        for _ in range(20):
            start = time.perf_counter()
            load_config(SHIPPED)
            durations.append(time.perf_counter() - start)
        assert min(durations) < 2e-3


class TestFiles:
    def test_the_shipped_file_and_that_of_the_issue_say_the_defaults(self) -> None:
        assert load_config(SHIPPED) == load_config(write(ISSUE)) == Config()

    def test_the_shipped_file_names_every_setting(self) -> None:
        text = SHIPPED.read_text(encoding="utf-8")
        assert all(f"{name}:" in text for name in Config.__dataclass_fields__ if name != "origins")

    @pytest.mark.parametrize(
        "text", ["", "# nothing\n", "---\n", "icechunk:\n", "icechunk: {}", "\ufeff", "icechunk: {chunk_strategies: }"]
    )
    def test_a_file_may_say_nothing(self, text: str) -> None:
        assert load_config(write(text)) == Config()

    def test_what_a_file_leaves_out_keeps_its_default(self) -> None:
        config = load_config(write("icechunk:\n  chunk_strategies:\n    snow: {epoch: 10}\n    vod: {sid: 1}\n"))
        assert config.chunk_strategies == {**Config().chunk_strategies, "snow": {"epoch": 10}, "vod": {"sid": 1}}
        assert config.compression_level == 5

    @pytest.mark.parametrize("mode", ["source", "hash", "off"])
    def test_off_is_a_word_here_although_yaml_takes_it_for_false(self, mode: str) -> None:
        assert load_config(write(f"provenance: {mode}")).provenance == mode

    def test_every_setting_says_where_it_came_from(self) -> None:
        write("author: Ada\n\nicechunk:\n  inline_threshold: 0\n  chunk_strategies:\n\n    vod: {epoch: 5}\n")
        rows = {row.split()[0]: row.split()[-1] for row in repr(load_config()).splitlines()[2:]}
        where = FILE.as_posix()
        assert rows["author"] == f"{where}:1"
        assert rows["inline_threshold"] == f"{where}:4"
        assert rows["chunk_strategies.vod"] == f"{where}:7"
        assert rows["chunk_strategies.rinex"] == rows["compression_level"] == "built-in"

    def test_a_file_elsewhere_is_named_in_full(self, tmp_path_factory: pytest.TempPathFactory) -> None:
        path = write("author: Ada", str(tmp_path_factory.mktemp("else") / "a.yaml"))
        assert load_config(path).origins == {"author": f"{path}:1"}

    @pytest.mark.parametrize(
        ("text", "line", "words"),
        [
            ("icechunk:\n  compresion_level: 3\n", 2, "Did you mean compression_level"),
            ("icechnk: {}\n", 1, "Did you mean icechunk"),
            ("a: 1\n", 1, "no key 'a'"),
            ("icechunk:\n  provenance: off\n", 2, "no key 'provenance'"),
            ("icechunk: {compression_algorithm: zstf}\n", 1, "Did you mean zstd"),
            ("icechunk: {compression_algorithm: lz4}\n", 1, "blosc-lz4"),
            ("icechunk:\n\n  compression_level: 23\n", 3, "from 0 to 22"),
            ("icechunk: {compression_level: 0}\n", 1, "from 1 to 22 for zstd"),
            ("icechunk:\n  compression_level: 12\n  compression_algorithm: gzip\n", 2, "from 0 to 9 for gzip"),
            ("icechunk: {compression_level: five}\n", 1, "whole number from 0 to 22, not 'five'"),
            ("icechunk: {compression_level: 5.0}\n", 1, "not 5.0"),
            ("icechunk: {compression_level: true}\n", 1, "not 'true'"),
            ("icechunk: {compression_level: }\n", 1, "not nothing"),
            ("icechunk: {compression_level: [5]}\n", 1, "not a sequence"),
            ("icechunk: {compression_level: !!int five}\n", 1, "not a scalar"),
            ("icechunk: {compression_level: !odd 5}\n", 1, "not a scalar"),
            ("icechunk: {inline_threshold: -1}\n", 1, "from 0 to 65,535"),
            ("icechunk: {inline_threshold: 65536}\n", 1, "from 0 to 65,535"),
            ("icechunk: {get_concurrency: 0}\n", 1, "from 1"),
            ("icechunk:\n  chunk_strategies:\n    rinex:\n      epoch: 0\n", 4, "rinex.epoch must be"),
            ("icechunk:\n  chunk_strategies:\n    rinex:\n      epoch: -2\n", 4, "-1 for the whole dimension"),
            ("icechunk:\n  chunk_strategies:\n    rinex:\n      epoch: yes\n", 4, "not 'yes'"),
            ("icechunk: {chunk_strategies: {rinex: 5}}\n", 1, "rinex must be a mapping"),
            ("icechunk: {chunk_strategies: 5}\n", 1, "chunk_strategies must be a mapping"),
            ("icechunk: {chunk_strategies: {2024: {epoch: 1}}}\n", 1, "must be a text"),
            ("icechunk: {<<: {compression_level: 4}}\n", 1, "must be a text"),
            ("provenance: none\n", 1, "source, hash, off"),
            ("provenance: [off]\n", 1, "not a sequence"),
            ("author: 3\n", 1, "must be a text"),
            ("author: ' '\n", 1, "must be a text"),
            ("- icechunk\n", 1, "the file must be a mapping"),
            ("icechunk: 5\n", 1, "icechunk must be a mapping"),
            ("icechunk:\n  compression_level: 1\n  compression_level: 2\n", 3, "is there already, on line 2"),
            ("author: a\nauthor: a\n", 2, "is there already, on line 1"),
            ("author: a\n---\nauthor: b\n", 2, "not YAML"),
            ("author: 'a\n", 2, "not YAML"),
            ("author: a\n\tb: c\n", 2, "not YAML"),
            ("author: *nobody\n", 1, "not YAML"),
        ],
    )
    def test_what_cannot_be_used_is_refused_with_file_line_and_reason(self, text: str, line: int, words: str) -> None:
        error = refusal(text)
        assert error.message.startswith(f"{FILE}:{line}: ")
        assert words in str(error)

    @pytest.mark.parametrize("content", [b"\xff\xfe\x00", b"author: \x01"])
    def test_what_is_no_text_is_refused(self, content: bytes) -> None:
        write("").write_bytes(content)
        with pytest.raises(ConfigError, match="cannot be read as text"):
            load_config()

    @given(st.text())
    def test_any_text_is_settings_or_one_clear_error(self, text: str) -> None:
        try:
            found = load_config(write(text, "any.yaml"))
        except ConfigError as error:
            assert "any.yaml" in error.message  # noqa: PT017  either answer is right
        else:
            assert found == Config()


class TestConfig:
    @pytest.mark.parametrize(
        "wrong",
        [
            {"compression_algorithm": "lz77"},
            {"compression_algorithm": None},
            {"compression_algorithm": ["zstd"]},
            {"compression_level": "5"},
            {"compression_level": True},
            {"compression_algorithm": "gzip", "compression_level": 10},
            {"inline_threshold": 1e3},
            {"get_concurrency": 0},
            {"chunk_strategies": {"rinex": {"epoch": 0}}},
            {"chunk_strategies": {"rinex": 5}},
            {"chunk_strategies": None},
            {"provenance": False},
            {"author": 3},
        ],
    )
    def test_wrong_values_are_refused_in_code_as_in_a_file(self, wrong: dict[str, Any]) -> None:
        with pytest.raises(ConfigError, match=list(wrong)[-1]):
            Config(**wrong)

    def test_it_survives_pickling_for_workers(self) -> None:
        config = load_config(write(ISSUE))
        copy = pickle.loads(pickle.dumps(config))
        assert copy == config
        assert copy.origins == config.origins
        assert hash(copy) == hash(config)

    def test_two_configurations_share_no_strategies(self) -> None:
        first, second = Config(), Config()
        first.chunk_strategies["rinex"]["epoch"] = 1  # type: ignore[index]
        assert second.chunk_strategies["rinex"]["epoch"] == 34_560

    def test_text_and_html_hold_the_same_cells(self) -> None:
        config = Config(author="<Ada>")
        assert "<Ada>" in repr(config)
        assert "&lt;Ada&gt;" in config._repr_html_()


class TestEffects:
    """Each setting is looked for at its destination: in a repository that was written with it."""

    def written(self, config: Config, data: np.ndarray) -> icechunk.Session:
        repository = icechunk.Repository.create(icechunk.in_memory_storage(), config=config.repository_config())
        session = repository.writable_session("main")
        array = zarr.create_array(
            session.store, name="a", shape=data.shape, chunks=data.shape, dtype=data.dtype, compressors=config.codecs()
        )
        array[:] = data
        assert (np.asarray(array[:]) == data).all()
        return session

    @pytest.mark.parametrize(("threshold", "kind"), [(100, "inline"), (99, "native"), (0, "native")])
    def test_the_threshold_decides_whether_a_chunk_is_an_object(self, threshold: int, kind: str) -> None:
        config = Config(inline_threshold=threshold, compression_algorithm="none")
        session = self.written(config, np.arange(1, 101, dtype="u1"))
        assert session.chunk_type("/a", [0]) == getattr(icechunk.ChunkType, kind)

    def test_concurrency_and_the_level_reach_icechunk(self) -> None:
        config = Config(get_concurrency=7, compression_level=11).repository_config()
        repository = icechunk.Repository.create(icechunk.in_memory_storage(), config=config)
        assert repository.config.get_partial_values_concurrency == 7
        assert repository.config.compression == icechunk.CompressionConfig(
            algorithm=icechunk.CompressionAlgorithm.Zstd, level=11
        )

    def test_the_level_makes_icechunks_own_files_smaller(self, tmp_path: Path) -> None:
        def metadata_size(level: int) -> int:
            folder = tmp_path / f"level{level}"
            config = Config(compression_level=level).repository_config()
            storage = icechunk.local_filesystem_storage(str(folder))
            session = icechunk.Repository.create(storage, config=config).writable_session("main")
            group = zarr.create_group(session.store, attributes={str(i): f"value {i * i}" for i in range(3_000)})
            for name in range(20):
                group.create_array(str(name), shape=(3,), dtype="f4", attributes={"units": "m", "n": name})
            snapshot = session.commit("x")
            return (folder / "snapshots" / snapshot).stat().st_size

        assert metadata_size(22) < 0.95 * metadata_size(1)

    @pytest.mark.parametrize("algorithm", LEVELS)
    def test_every_algorithm_writes_what_zarr_reads_back(self, algorithm: str) -> None:
        data = np.repeat(np.arange(500, dtype="f4"), 40)
        self.written(Config(compression_algorithm=algorithm), data)

    @pytest.mark.parametrize("algorithm", [name for name in LEVELS if name != "none"])
    def test_algorithm_and_level_stand_in_the_arrays_metadata(self, algorithm: str) -> None:
        for level in (LEVELS[algorithm][1], LEVELS[algorithm][-1]):
            config = Config(compression_algorithm=algorithm, compression_level=level)
            session = self.written(config, np.arange(1, 100, dtype="f4"))
            (stored,) = [codec.to_dict() for codec in zarr.open_array(session.store, path="a").compressors]
            assert algorithm.startswith(stored["name"])
            assert level in stored["configuration"].values()
            assert stored["configuration"].get("cname", "") in algorithm

    @pytest.mark.parametrize(("algorithm", "level"), [("zstd", 23), ("gzip", 10)])
    def test_the_ranges_are_those_of_zarr(self, algorithm: str, level: int) -> None:
        codec = {"zstd": zarr.codecs.ZstdCodec, "gzip": zarr.codecs.GzipCodec}[algorithm]
        codec(level=LEVELS[algorithm][-1])
        assert level == LEVELS[algorithm].stop
        with pytest.raises(ValueError, match=str(level)):
            codec(level=level)

    def test_none_compresses_nothing(self) -> None:
        assert Config(compression_algorithm="none", compression_level=0).codecs() == ()

    def test_another_algorithm_leaves_icechunks_metadata_alone_and_says_so(self) -> None:
        config = Config(compression_algorithm="gzip")
        assert config.repository_config().compression is None
        assert "zstd" in repr(config).splitlines()[-1]
        assert config.notes
        assert Config().notes == ()
