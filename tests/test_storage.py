"""Where a text leads: URLs, paths, settings of a storage, and what may never be shown."""

from __future__ import annotations

import os
import socket
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import icechunk
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from icemagic.errors import StorageURLError, StoreNotFoundError
from icemagic.providers import SCHEMES, network_settings
from icemagic.storage import Location, describe, is_repository, locate, nearby, storage_path

if TYPE_CHECKING:
    from collections.abc import Iterator

SECRET = "s3cr3t-w0rd"
KEY = "QUFBQUFBQUFBQUFBQUFBQQ=="
FULL = {
    "s3": {"region": "us-east-1", "access_key_id": "AKIA1", "secret_access_key": SECRET, "session_token": "t0k-en"},
    "gs": {"bearer_token": SECRET},
    "az": {"account_name": "acc", "account_key": KEY},
    "r2": {"account_id": "acc", "access_key_id": "AKIA1", "secret_access_key": SECRET},
    "tigris": {"region": "auto", "access_key_id": "AKIA1", "secret_access_key": SECRET},
}
NAMES = ["plain", "with space", "Größe 水", "50%", "a%20b", 'it\'s "quoted"', "x?y#z", "@me"]
ODD_NAMES = ["two\nlines", "a\n    b", "  x  ", "type: S3", "path:"]
FILE_URLS = ["file:///a/b", "file://localhost/a/b", "file:/a/b", "FILE:///a/b", "file:///%61/b/"]
WEB_URLS = ["http://host:8080/a/b/", "https://data.example.org/a", "http://[::1]:80/a", "https://h"]
ANY_NAME = st.text(st.characters(exclude_characters="/\0\n\r", exclude_categories=["Cs"]), min_size=1)
POSIX = pytest.mark.skipif(os.name == "nt", reason="these are names of folders on POSIX only")


@pytest.fixture(autouse=True)
def _no_cloud_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in os.environ:
        if name.startswith(("AWS_", "AZURE_", "GOOGLE_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")


def refusal(storage: Any, config: Any = None) -> StorageURLError:
    with pytest.raises(StorageURLError) as caught:
        locate(storage, config)
    return caught.value


def make(path: Path) -> icechunk.Repository:
    return icechunk.Repository.create(icechunk.local_filesystem_storage(str(path)))


class TestLocalPaths:
    @pytest.mark.parametrize("name", NAMES)
    def test_a_path_a_path_object_and_a_file_url_mean_the_same_folder(self, tmp_path: Path, name: str) -> None:
        folder = tmp_path / name
        found = [locate(given) for given in (str(folder), folder, folder.as_uri(), f"{folder}/")]
        assert {(place.path, place.scheme, place.url) for place in found} == {(folder, "file", folder.as_uri())}

    def test_the_repository_lies_in_that_folder_and_not_in_one_named_like_the_url(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        icechunk.Repository.create(locate((tmp_path / "a b").as_uri()).storage)
        assert list(Path().iterdir()) == [Path("a b")]
        assert is_repository(tmp_path / "a b")

    def test_relative_paths_start_at_the_working_directory(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        assert locate("stores/a").path == tmp_path / "stores" / "a"
        assert locate("./s3x").path == tmp_path / "s3x"
        assert locate("a/../b").path == (tmp_path / "b").resolve()

    @POSIX
    def test_a_plain_path_is_not_decoded_however_it_starts(self) -> None:
        assert [str(locate(path).path) for path in ("//a%20b/c", "/a%20b/c")] == ["//a%20b/c", "/a%20b/c"]

    def test_a_tilde_is_the_home_folder(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("HOME", str(tmp_path))
        monkeypatch.setenv("USERPROFILE", str(tmp_path))
        assert locate("~/x").path == tmp_path / "x"
        assert locate(Path("~/x")).path == tmp_path / "x"

    def test_a_home_folder_that_nobody_has_is_refused(self) -> None:
        assert "home folder" in refusal("~nobody-of-that-name/x").message

    def test_links_stay_as_typed_so_that_a_layout_can_be_made_of_them(self, tmp_path: Path) -> None:
        (tmp_path / "disk").mkdir()
        (tmp_path / "stores").symlink_to(tmp_path / "disk")
        assert locate(tmp_path / "stores" / "x").path == tmp_path / "stores" / "x"

    def test_a_parent_behind_a_link_is_the_parent_of_its_target(self, tmp_path: Path) -> None:
        (tmp_path / "disk" / "deep").mkdir(parents=True)
        (tmp_path / "link").symlink_to(tmp_path / "disk" / "deep")
        assert locate(f"{tmp_path}/link/../x").path == tmp_path.resolve() / "disk" / "x"

    @POSIX
    @given(st.lists(ANY_NAME, min_size=1))
    @example(["a\u2028b", " ", "~", "%2F", "\u202e"])
    def test_any_name_survives_the_way_through_its_url(self, parts: list[str]) -> None:
        path = Path("/", *[part for part in parts if part not in (".", "..")])
        place = locate(path.as_uri())
        assert place.path == path
        assert locate(place.url) == place
        assert place.url.isascii()

    @POSIX
    @pytest.mark.parametrize("url", FILE_URLS)
    def test_every_spelling_of_a_file_url_is_read(self, url: str) -> None:
        assert locate(url).path == Path("/a/b")

    @pytest.mark.parametrize(
        ("given", "words"),
        [
            ("", "an empty text"),
            ("  ", "an empty text"),
            (b"bytes", "type bytes"),
            (None, "None"),
            (3, "type int"),
            ("a\0b", "NUL"),
            ("stores/a\n", "line break"),
            ("file:///a%00b", "NUL"),
            ("file:a/b", "absolute"),
            ("file://stores/rosalia", "another machine"),
            ("file:///a?b", "query string"),
            (Path("s3://bucket/x"), "path object"),
        ],
    )
    def test_what_names_no_folder_is_refused(self, given: Any, words: str) -> None:
        assert words in refusal(given).message

    @POSIX
    def test_a_windows_path_elsewhere_is_refused_and_not_made_a_folder(self) -> None:
        assert "Windows path" in refusal(r"C:\data\x").message
        assert "Windows path" in refusal("c:/data/x").message

    @POSIX
    def test_a_name_that_is_no_unicode_is_refused(self) -> None:
        assert "Unicode" in refusal(os.fsdecode(b"/tmp/\xff")).message
        assert "Unicode" in refusal("file:///tmp/%FF").message

    def test_a_file_is_not_a_place_for_a_repository(self, tmp_path: Path) -> None:
        (tmp_path / "day.nc").write_bytes(b"")
        assert "is a file" in refusal(tmp_path / "day.nc").message


class TestMemory:
    def test_the_same_name_finds_the_same_repository(self) -> None:
        icechunk.Repository.create(locate("memory:test-same").storage)
        assert icechunk.Repository.exists(locate("memory://test-same").storage)
        assert not icechunk.Repository.exists(locate("memory:test-other").storage)
        assert locate("memory:test-same").url == "memory:test-same"

    @pytest.mark.parametrize("url", ["memory:", "memory://", "memory:///", "memory: "])
    def test_a_name_is_needed(self, url: str) -> None:
        assert "memory:NAME" in refusal(url).hint


class TestRemoteUrls:
    @pytest.mark.parametrize("scheme", FULL)
    def test_bucket_and_prefix_reach_icechunk(self, scheme: str) -> None:
        place = locate(f"{scheme.upper()}://my-bucket/path/to/store/", FULL[scheme])
        assert (place.url, place.scheme, place.path) == (f"{scheme}://my-bucket/path/to/store", scheme, None)
        assert not place.read_only
        assert ": my-bucket\n" in repr(place.storage)
        assert "prefix: path/to/store\n" in repr(place.storage)

    def test_the_snippets_of_the_readme_are_understood(self) -> None:
        locate("s3://bucket-name/path/to/store", {"region": "us-east-1", "credentials": "auto"})
        locate("az://container/path/to/store", {"account_name": "myaccount", "account_key": KEY})
        locate("gcs://bucket/x", {"credentials": "anonymous"})

    @pytest.mark.parametrize("url", WEB_URLS)
    def test_the_web_is_read_only(self, url: str) -> None:
        place = locate(url)
        assert (place.url, place.scheme, place.read_only) == (url.rstrip("/"), "http", True)

    @pytest.mark.parametrize(
        ("url", "words"),
        [
            ("s3:bucket/x", "Two slashes"),
            ("s3:/bucket/x", "Two slashes"),
            ("s3:///x", "no bucket"),
            ("az:///x", "no container"),
            ("s3://bucket", "no prefix"),
            ("s3://bucket/", "no prefix"),
            ("gs://bucket//", "no prefix"),
            ("s3://bucket/a//b", "empty, . or .. part"),
            ("s3://bucket/a/../b", "empty, . or .. part"),
            ("s3://127.0.0.1:9000/bucket/x", "letters, digits"),
            ("s3://bück/x", "letters, digits"),
            ("http:///x", "no host"),
            ("https:host/x", "no host"),
            ("http://host:port/x", "no host"),
        ],
    )
    def test_a_url_that_lacks_something_is_refused(self, url: str, words: str) -> None:
        assert words in refusal(url, FULL.get(url.partition(":")[0])).message

    @pytest.mark.parametrize(("given", "near"), [("s4", "s3"), ("htp", "http"), ("memry", "memory"), ("fiel", "file")])
    def test_an_unknown_scheme_gets_the_nearest_and_all_known(self, given: str, near: str) -> None:
        error = refusal(f"{given}://bucket/x")
        assert f"Did you mean {near}" in error.hint
        assert all(scheme.example in error.hint for scheme in SCHEMES.values())

    def test_a_folder_with_a_colon_in_its_name_is_reached_with_a_dot(self) -> None:
        assert "./" in refusal("run:3").hint
        assert locate("./run:3").path == Path.cwd() / "run:3"


class TestSecrets:
    @pytest.mark.parametrize("scheme", FULL)
    def test_secret_values_are_known_but_never_shown(self, scheme: str) -> None:
        place = locate(f"{scheme}://bucket/x", FULL[scheme])
        assert place.secrets
        for secret in place.secrets:
            assert secret in FULL[scheme].values()
            assert secret not in repr(place) + repr(place.storage) + place.url

    def test_every_key_that_holds_credentials_is_known_and_every_secret_is_one_of_them(self) -> None:
        for scheme in SCHEMES.values():
            assert {key for key, option in scheme.options.items() if option.secret} <= set(scheme.keys)
            assert set(scheme.keys) <= set(scheme.options)

    @given(
        st.sampled_from([*SCHEMES, "https", "gcs", "a", "ftp", "s4"]),
        st.sampled_from(["://", ":/", ":", ":///", ":\\\\"]),
        st.text(st.characters(exclude_characters="/\0"), max_size=5),
        st.sampled_from(["{}:" + SECRET + "@host/b/c", SECRET + "@{}/b", "b{}/c?sig=" + SECRET, "b/{}c#" + SECRET]),
    )
    @example("s3", "://", "", "user{}:" + SECRET + "\uff20host/b")
    def test_no_url_that_holds_a_secret_is_taken_and_no_error_repeats_it(
        self, scheme: str, colon: str, noise: str, shape: str
    ) -> None:
        # In the path of a file: URL an @ is a letter like others.
        assume(scheme != "file" or "@" not in shape or colon == "://")
        error = refusal(f"{scheme}{colon}{shape.format(noise)}", FULL.get(scheme))
        assert SECRET not in f"{error} {error!r} {error.__cause__!r} {error.__context__!r}"

    @pytest.mark.parametrize("scheme", ["s3", "https", "az", "ftp"])
    @pytest.mark.parametrize("rest", [f"me:{SECRET}@bucket/x", f"bucket/x?token={SECRET}", f"bucket/x#{SECRET}"])
    def test_secrets_in_a_url_are_refused_with_the_way_to_give_them(self, scheme: str, rest: str) -> None:
        error = refusal(f"{scheme}://{rest}")
        assert "storage_config" in error.hint
        assert SECRET not in str(error)

    @pytest.mark.parametrize("endpoint", ["http://me:{}@host", "https://host?sig={}", "https://host/#{}", "me:{}@host"])
    def test_secrets_in_an_endpoint_are_refused(self, endpoint: str) -> None:
        config = {"endpoint_url": endpoint.format(SECRET), "allow_http": True}
        assert SECRET not in str(refusal("s3://b/x", config))


class TestStorageConfig:
    @pytest.mark.parametrize("scheme", FULL)
    def test_every_key_of_the_table_has_an_effect_or_an_argument_in_icechunk(self, scheme: str) -> None:
        """Each key alone, with what it needs, is taken by icechunk's own constructor."""
        needed = {"az": {"account_name": "a"}, "r2": {"account_id": "a"}, "tigris": {"region": "auto"}}.get(scheme, {})
        pair = {"access_key_id": "a", "secret_access_key": "b"}
        for key, option in SCHEMES[scheme].options.items():
            value: object = True if option.kind is bool else "anonymous" if key == "credentials" else "https://host"
            given = {**needed, **(pair if key in pair or key == "session_token" else {}), key: value}
            assert isinstance(locate(f"{scheme}://bucket/x", given), Location), key

    @pytest.mark.parametrize(
        ("scheme", "wrong", "near"),
        [
            ("s3", "acess_key_id", "access_key_id"),
            ("s3", "endpoint", "endpoint_url"),
            ("az", "account", "account_name"),
            ("az", "azure_storage_endpoint", "endpoint_url"),
            ("gs", "token", "bearer_token"),
        ],
    )
    def test_an_unknown_key_gets_the_nearest(self, scheme: str, wrong: str, near: str) -> None:
        error = refusal(f"{scheme}://bucket/x", {**FULL[scheme], wrong: SECRET})
        assert wrong in error.message
        assert near in error.hint
        assert SECRET not in str(error)

    @pytest.mark.parametrize("storage", ["plain/path", "file:///x", "memory:x", "https://host/x"])
    def test_storage_without_settings_takes_none(self, storage: str) -> None:
        assert "takes no storage_config" in refusal(storage, {"region": "x"}).hint
        locate(storage, {})

    @pytest.mark.parametrize(
        ("key", "value"), [("region", 3), ("region", None), ("region", ""), ("allow_http", "yes"), ("allow_http", 1)]
    )
    def test_a_value_of_the_wrong_type_is_refused(self, key: str, value: object) -> None:
        assert key in refusal("s3://b/x", {key: value}).message

    def test_a_secret_of_the_wrong_type_is_not_shown(self) -> None:
        assert SECRET not in str(refusal("s3://b/x", {"secret_access_key": [SECRET]}))
        assert SECRET not in str(refusal("s3://b/x", {"credentials": SECRET}))
        assert SECRET not in str(refusal("s3://b/x", SECRET))

    def test_credentials_and_explicit_keys_exclude_each_other(self) -> None:
        assert "both" in refusal("s3://b/x", {**FULL["s3"], "credentials": "auto"}).message
        assert "both" in refusal("az://b/x", {**FULL["az"], "credentials": "anonymous"}).message

    @pytest.mark.parametrize("half", ["access_key_id", "secret_access_key", "session_token"])
    def test_half_a_key_is_refused(self, half: str) -> None:
        assert "belong together" in refusal("s3://b/x", {half: "x"}).hint

    def test_two_keys_for_one_account_are_refused(self) -> None:
        assert "both" in refusal("az://c/x", {"account_name": "a", "account_key": KEY, "sas_token": "s"}).message
        assert "both" in refusal("gs://c/x", {"bearer_token": "a", "service_account_file": "f"}).message

    @pytest.mark.parametrize(("scheme", "key"), [("az", "account_name"), ("r2", "account_id"), ("tigris", "region")])
    def test_what_a_provider_needs_is_asked_for(self, scheme: str, key: str) -> None:
        assert key in refusal(f"{scheme}://bucket/x", {}).hint

    def test_an_endpoint_without_encryption_must_be_meant(self) -> None:
        assert "allow_http" in refusal("s3://b/x", {"endpoint_url": "http://127.0.0.1:9000"}).hint
        place = locate("s3://b/x", {"endpoint_url": "http://127.0.0.1:9000", "allow_http": True})
        assert "endpoint_url: http://127.0.0.1:9000\n" in repr(place.storage)

    @pytest.mark.parametrize("endpoint", ["127.0.0.1:9000", "ftp://host", "https://", "https:// host"])
    def test_an_endpoint_must_be_a_web_address(self, endpoint: str) -> None:
        assert "https://" in refusal("s3://b/x", {"endpoint_url": endpoint}).message

    def test_the_docstring_lists_every_scheme_and_key(self) -> None:
        text = locate.__doc__ or ""
        for scheme in SCHEMES.values():
            assert scheme.example in text
            assert all(f"{key} : " in text for key in scheme.options)


class TestNetwork:
    """What icechunk really does, against a listener on loopback."""

    @pytest.fixture
    def listener(self) -> Iterator[socket.socket]:
        with socket.create_server(("127.0.0.1", 0)) as server:
            server.settimeout(10)
            yield server

    @pytest.mark.parametrize("scheme", ["s3", "az", "gs"])
    def test_the_endpoint_is_where_the_requests_go(self, scheme: str, listener: socket.socket) -> None:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        config = {**FULL[scheme], "endpoint_url": url, "allow_http": True}
        if scheme == "s3":
            config["force_path_style"] = True
        request = first_request(listener, locate(f"{scheme}://bucket/pre/fix", config).storage)
        assert request.split()[1].startswith((b"/bucket", b"/acc/bucket"))
        assert b"authorization:" in request.lower()
        assert SECRET.encode() not in request or scheme == "gs"  # a bearer token is sent as it is; the others sign

    @pytest.mark.parametrize("scheme", ["s3", "az"])
    def test_anonymous_requests_are_not_signed(self, scheme: str, listener: socket.socket) -> None:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        config: dict[str, object] = {"endpoint_url": url, "allow_http": True, "credentials": "anonymous"}
        config |= {"region": "us-east-1"} if scheme == "s3" else {"account_name": "acc"}
        assert b"authorization:" not in first_request(listener, locate(f"{scheme}://bucket/x", config).storage).lower()

    def test_auto_takes_the_keys_of_the_environment(
        self, listener: socket.socket, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "FROMENVIRONMENT")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        config = {"endpoint_url": url, "allow_http": True, "credentials": "auto", "region": "us-east-1"}
        assert b"Credential=FROMENVIRONMENT/" in first_request(listener, locate("s3://bucket/x", config).storage)

    def test_local_storage_has_no_network(self) -> None:
        assert network_settings("file") is None
        assert network_settings("memory") is None

    @pytest.mark.parametrize("scheme", ["s3", "az", "http"])
    def test_a_server_that_is_not_there_is_an_error_within_seconds(self, scheme: str) -> None:
        with socket.create_server(("127.0.0.1", 0)) as server:
            address = f"http://127.0.0.1:{server.getsockname()[1]}"
        if scheme == "http":
            place = locate(f"{address}/x")
        else:
            place = locate(f"{scheme}://bucket/x", {**FULL[scheme], "endpoint_url": address, "allow_http": True})
        start = time.perf_counter()
        with pytest.raises(icechunk.StorageError) as caught:
            icechunk.Repository.open(place.storage, config=settings(place))
        assert time.perf_counter() - start < 8
        assert not any(secret in str(caught.value) for secret in place.secrets)

    def test_a_silent_server_cannot_hold_us_for_ever(self) -> None:
        timeouts = network_settings("s3").timeouts
        assert 0 < timeouts.connect_timeout_ms <= 5_000
        assert 30_000 <= timeouts.read_timeout_ms <= 300_000


def settings(place: Location) -> icechunk.RepositoryConfig:
    return icechunk.RepositoryConfig(storage=network_settings(place.scheme))


def first_request(listener: socket.socket, storage: icechunk.Storage) -> bytes:
    """Return the head of the first request that opening a repository sends; the listener then hangs up on all."""
    import threading

    once = icechunk.StorageRetriesSettings(max_tries=1)
    config = icechunk.RepositoryConfig(storage=icechunk.StorageSettings(retries=once))

    def knock() -> None:
        with suppress(icechunk.IcechunkError):
            icechunk.Repository.open(storage, config=config)

    thread = threading.Thread(target=knock)
    thread.start()
    connection, _ = listener.accept()
    with connection:
        request = connection.recv(65_536)
    listener.close()
    thread.join(20)
    assert not thread.is_alive()
    return request


class TestNearby:
    def test_a_typo_in_any_part_finds_the_repository(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        make(tmp_path / "stores" / "rosalia" / "rinex")
        want = [str(Path("stores", "rosalia", "rinex"))]
        for typo in ("stores/rosalia/rinx", "stores/rosalja/rinex", "stroes/Rosalia/RINEX"):
            assert nearby(locate(typo)) == want, typo

    def test_a_folder_of_repositories_shows_them(self, tmp_path: Path) -> None:
        make(tmp_path / "stores" / "rosalia" / "rinex")
        make(tmp_path / "stores" / "rosalia" / "vod")
        want = [str(tmp_path / "stores" / "rosalia" / kind) for kind in ("rinex", "vod")]
        assert nearby(locate(tmp_path / "stores" / "rosalia")) == want
        assert nearby(locate(tmp_path / "stores")) == want
        assert nearby(locate(tmp_path / "stores" / "rosali")) == want

    def test_folders_without_a_repository_and_other_storage_are_not_suggested(self, tmp_path: Path) -> None:
        (tmp_path / "rinex").mkdir()
        (tmp_path / "rinex.git" / "refs").mkdir(parents=True)
        assert nearby(locate(tmp_path / "rinx")) == []
        assert nearby(locate("memory:test-nearby")) == []
        assert nearby(locate("/")) is not None

    def test_at_most_five_are_shown(self, tmp_path: Path) -> None:
        for number in range(7):
            make(tmp_path / f"store{number}")
        assert len(nearby(locate(tmp_path))) == 5


class TestOpenRepositories:
    @POSIX
    @pytest.mark.parametrize("name", [*NAMES, *ODD_NAMES])
    def test_the_folder_of_a_local_repository_is_found(self, tmp_path: Path, name: str) -> None:
        repository = make(tmp_path / name)
        assert storage_path(repository) == tmp_path / name
        assert describe(repository) == (tmp_path / name).as_uri()

    def test_a_relative_path_is_made_absolute_or_refused_after_a_change_of_directory(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        repository = make(Path("here"))
        assert storage_path(repository) == tmp_path / "here"
        (tmp_path / "elsewhere").mkdir()
        monkeypatch.chdir(tmp_path / "elsewhere")
        with pytest.raises(StoreNotFoundError, match="'here'"):
            storage_path(repository)

    def test_format_1_repositories_count_too(self, tmp_path: Path) -> None:
        storage = icechunk.local_filesystem_storage(str(tmp_path / "old"))
        repository = icechunk.Repository.create(storage, spec_version=1)
        assert storage_path(repository) == tmp_path / "old"

    def test_memory_has_no_folder(self) -> None:
        repository = icechunk.Repository.create(icechunk.in_memory_storage())
        assert storage_path(repository) is None
        assert describe(repository) == "memory:"

    @pytest.mark.parametrize("scheme", FULL)
    def test_remote_storage_has_no_folder_and_a_url_without_secrets(self, scheme: str) -> None:
        class Opened:
            """A repository cannot be open without its server; of an open one only the storage is asked for."""

            storage = locate(f"{scheme}://bucket/a/b", FULL[scheme]).storage

        assert storage_path(Opened()) is None  # type: ignore[arg-type]
        url = describe(Opened())  # type: ignore[arg-type]
        assert url == f"{scheme if scheme in ('gs', 'az') else 's3'}://bucket/a/b"

    def test_a_password_in_a_web_address_given_to_icechunk_is_left_out(self) -> None:
        class Opened:
            storage = icechunk.http_storage(f"https://me:{SECRET}@host:81/a/b?sig={SECRET}")

        assert describe(Opened()) == "https://host:81/a/b"  # type: ignore[arg-type]
