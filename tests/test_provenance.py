"""Every commit says how it came about, once, and without secrets."""

from __future__ import annotations

import json
import os
import subprocess
import time
from pathlib import Path
from types import MappingProxyType

import icechunk
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from icemagic import IcechunkStore, history, provenance
from icemagic.provenance import KEY, SOURCE_LIMIT, Cell, Recorded, collect, origin
from icemagic.redaction import REDACTED, redact

SECRET = "s3cr3tValueZq71"
AWS_ID = "AKIA" + "IOSFODNN7EXAMPLE"
AWS_KEY = "wJalrXUtnFEMI/K7MDENG/" + "bPxRfiCYEXAMPLEKEY"
AZURE_KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw" + "=="
JWT = "eyJhbGciOiJIUzI1NiJ9" + ".eyJzdWIiOiIxMjM0In0" + ".dozjgNryP4J3jVmNHl0w"
PEM = "-----BEGIN RSA PRIVATE KEY-----\nMIIEowIBAAKCAQEAs3cr3t\n-----END RSA PRIVATE KEY-----"

# What is written in a cell, and the part of it that must be gone.
SECRETS = (
    (f'key = "{SECRET}"', SECRET),
    (f"key='{SECRET}'", SECRET),
    (f'api_key: str = "{SECRET}"', SECRET),
    (f'(token := "{SECRET}")', SECRET),
    (f'if password == "{SECRET}": pass', SECRET),
    (f'PASSWORD = """{SECRET}"""', SECRET),
    (f"my_secret = '''\nfirst line\n{SECRET}\n'''", SECRET),
    (f'{{"account_key": "{SECRET}"}}', SECRET),
    (f"{{'client_secret': '{SECRET}', 'x': 1}}", SECRET),
    (f'connect(host="h", password="{SECRET}", timeout=3)', SECRET),
    (f'token = f"{SECRET}"', SECRET),
    (f'token = f"{SECRET}{{suffix}}"', SECRET),
    (f'key = b"{SECRET}"', SECRET),
    (f'os.environ["MY_TOKEN"] = "{SECRET}"', SECRET),
    (f'os.environ.setdefault("MY_TOKEN", "{SECRET}")', SECRET),
    (f'os.getenv("API_KEY", "{SECRET}")', SECRET),
    (f'token = os.getenv("API_TOKEN") or "{SECRET}"', SECRET),
    (f'monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "{SECRET}")', SECRET),
    (f'secret = ("s3cr3t"\n          "{SECRET}")', SECRET),
    (f'secret = ("s3cr3t"  # the first half\n          "{SECRET}")', SECRET),
    (f'secret = "s3cr3t" + \\\n    "{SECRET}"', SECRET),
    (f'secret = "s3cr3t\\\n{SECRET}"', SECRET),
    (f'password = "quote \\" in it {SECRET}"', SECRET),
    (f'user, password = "bob", "{SECRET}"', SECRET),
    (f'password, user = "{SECRET}", "bob"', SECRET),
    (f'tokens = ["a1", "{SECRET}"]', SECRET),
    (f'passwords = {{"bob": "{SECRET}"}}', SECRET),
    (f'requests.get(url, auth=("bob", "{SECRET}"))', SECRET),
    (f'HTTPBasicAuth("bob", "{SECRET}")', SECRET),
    (f'ftp.login("bob", "{SECRET}")', SECRET),
    (f'keyring.set_password("service", "bob", "{SECRET}")', SECRET),
    (f'credential = AzureNamedKeyCredential("account", "{SECRET}")', SECRET),
    (f'token = SecretStr("{SECRET}")', SECRET),
    (f'key = base64.b64decode("{SECRET}")', SECRET),
    (f'storage_config={{"account_name": "me", "account_key": "{AZURE_KEY}"}}', AZURE_KEY),
    (f'storage_config=dict(access_key_id="{AWS_ID}", secret_access_key="{AWS_KEY}")', AWS_KEY),
    (f'print("{AWS_ID}")', AWS_ID),
    (f'x = "{AWS_KEY}"', AWS_KEY),
    (f'x = "{AZURE_KEY}"', AZURE_KEY),
    ("x = 'ghp_" + "a1B2" * 9 + "'", "a1B2" * 9),
    ("x = 'github_pat_" + "a1B2" * 9 + "'", "a1B2" * 9),
    ("x = 'glpat-" + "a1B2" * 5 + "'", "a1B2" * 5),
    ("x = 'xoxb-123456789012-" + "a1B2" * 6 + "'", "a1B2" * 6),
    ("x = 'https://hooks.slack.com/services/T00/B00/" + "a1B2" * 6 + "'", "a1B2" * 6),
    ("x = 'hf_" + "a1B2" * 8 + "'", "a1B2" * 8),
    ("x = 'sk-proj-" + "a1B2" * 8 + "'", "a1B2" * 8),
    ("x = 'AIza" + "a1B2" * 9 + "'", "a1B2" * 9),
    (f"x = '{JWT}'", JWT),
    (f'x = """{PEM}"""', "s3cr3t"),
    (PEM.partition("-----END")[0], "s3cr3t"),
    (f'cs = "DefaultEndpointsProtocol=https;AccountName=me;AccountKey={AZURE_KEY};EndpointSuffix=x"', AZURE_KEY),
    ('cs = "Server=db;User=bob;Password=correcthorse"', "correcthorse"),
    ("url = 'https://me.blob.core.windows.net/c?sv=2022&sig=abc%2Fdef%3D&se=2030'", "abc%2Fdef%3D"),
    (f"url = 'https://host/path?token={SECRET}&x=1'", SECRET),
    ("fs = open('ftp://bob:correct-horse@host/file')", "correct-horse"),
    ("pip install git+https://a1b2c3d4e5f6a7b8c9d0e1f2@host/x", "a1b2c3d4e5f6a7b8c9d0e1f2"),
    (f'headers = {{"Authorization": "Bearer {SECRET}"}}', SECRET),
    (f"!curl -H 'Authorization: Basic {SECRET}' https://host", SECRET),
    ("!curl -u bob:correcthorse https://host", "correcthorse"),
    ("!tool --password correcthorse --verbose", "correcthorse"),
    ("!export DB_PASSWORD=correcthorse", "correcthorse"),
    ("%env API_TOKEN=correcthorse", "correcthorse"),
    ("%env API_TOKEN correcthorse", "correcthorse"),
    (f'ini = """\n[default]\naws_secret_access_key={AWS_KEY}\n"""', AWS_KEY),
    (f'ini = """\n[default]\naws_secret_access_key = {AWS_KEY}\n"""', AWS_KEY),
    ("yaml = '''\nuser: bob\npassword: hunter2\n'''", "hunter2"),
    (f"# my password: {SECRET}", SECRET),
    (f'db_pass = "{SECRET}"', SECRET),
    (f'sas = "{SECRET}"', SECRET),
    (f'ds.attrs["shared_access_signature"] = "{SECRET}"', SECRET),
    (f'session_cookie = "{SECRET}"', SECRET),
)
# Cells without a secret: nothing of them may change.
INNOCENT = (
    "sorted(rows, key=lambda row: row.epoch)",
    "sorted(rows, key=len)",
    "sorted(rows, key=operator.itemgetter(1))",
    'token = get_token("rosalia")',
    "password = getpass.getpass()",
    'key = os.environ["STATION"]',
    "for key, value in ds.attrs.items(): print(key, 'is', value)",
    'ds.drop_vars(["key", "epoch"])',
    'keys = ["epoch", "sid"]',
    'keyword = "gnss vod"',
    'author = "Jane Doe"',
    'tokenizer = "bert"',
    'print("password:", len(word))',
    "class Settings:\n    token: str\n    key: bytes | None = None",
    "def f(key: str, secret: bytes) -> None: ...",
    'key = ""',
    "key=''",
    'ds.sel(epoch=slice("2024-01-01", "2024-01-31"))',
    'store = IcechunkStore.open("s3://bucket/path", storage_config={"region": "us-east-1"})',
    'ds.to_zarr(store, append_dim="epoch")',
    'hash = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b"',
    'snapshot = "TTE1YPWR7FS814KMJKT0"',
    'url = "https://host/path?epoch=2024-01-01&station=rosa"',
    "x = a if has_key else b",
    "d[key] = value_2",
    "token=token_of_user",
    "monkeypatch.delenv('API_KEY')",
    "stride = ds.sizes['sid']  # Basic statistics follow",
    "pwd = os.getcwd()",
    'headers = {"Accept": "text/html"}',
    "mask = (snr >= 30) & (elevation > 10)",
)


@pytest.fixture
def repo() -> icechunk.Repository:
    return icechunk.Repository.create(icechunk.in_memory_storage())


@pytest.fixture
def no_secrets_around(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name != "PYTEST_CURRENT_TEST":
            monkeypatch.delenv(name)


def make(repo, source, *, branch="main", mode="source", secrets=(), recorded=None, **cell):
    """Commit as a transaction does, and return the id."""
    session = repo.writable_session(branch)
    facts = collect(
        repo,
        session.snapshot_id,
        cell=None if source is None else Cell(source, **cell),
        author="Ada",
        mode=mode,
        secrets=secrets,
        recorded=recorded or Recorded(),
    )
    return session.commit("c", facts, allow_empty=True)


def entry(repo, snapshot_id):
    return repo.lookup_snapshot(snapshot_id).metadata[KEY]


# -- once per distinct source ------------------------------------------------------------------------------------------


def test_a_repeated_cell_stores_its_hash_only_and_is_read_back_from_the_first(repo):
    recorded = Recorded()
    first, other, again = (make(repo, source, recorded=recorded) for source in ("x = 1", "y = 2", "x = 1"))
    assert entry(repo, first)["source"] == "x = 1"
    assert entry(repo, other)["source"] == "y = 2"
    assert entry(repo, again).split()[0] == entry(repo, first)["hash"]
    assert origin(repo, again).source == "x = 1"


def test_a_repeated_cell_of_nobody_in_particular_is_recorded_too(repo, monkeypatch):
    # A container may run as a number without a name; to become one here would take root and a machine without git.
    monkeypatch.setattr("icemagic.provenance.own_name", lambda: "")
    for _ in range(2):
        session = repo.writable_session("main")
        facts = collect(
            repo, session.snapshot_id, cell=Cell("x = 1"), author=None, mode="source", secrets=(), recorded=Recorded()
        )
        made = session.commit("c", facts, allow_empty=True)
    assert isinstance(entry(repo, made), str)
    assert origin(repo, made).source == "x = 1"
    assert history.version(repo, made).author == ""


def test_the_entry_of_a_repeated_cell_is_small(repo):
    long = "x = 1  # " + "y" * 5_000
    make(repo, long)
    again = make(repo, long, execution_count=12_345, notebook="a notebook with a long name.ipynb")
    assert len(json.dumps({KEY: entry(repo, again)})) < 400


def test_a_source_that_only_a_sibling_branch_holds_is_stored_again(repo):
    recorded = Recorded()
    fork = make(repo, "before = 1", recorded=recorded)
    repo.create_branch("dev", fork)
    dev = make(repo, "x = 1", branch="dev", recorded=recorded)
    main = make(repo, "x = 1", recorded=recorded)
    assert "source" in entry(repo, dev)
    assert entry(repo, main)["source"] == "x = 1"
    for branch in ("dev", "main"):
        assert "source" not in entry(repo, make(repo, "before = 1", branch=branch, recorded=recorded))
        assert "source" not in entry(repo, make(repo, "x = 1", branch=branch, recorded=recorded))


@settings(deadline=None, max_examples=25)
@given(st.lists(st.tuples(st.sampled_from(["main", "dev"]), st.sampled_from("abc")), max_size=12))
def test_every_commit_finds_its_source_and_no_line_of_history_holds_one_twice(steps):
    repo = icechunk.Repository.create(icechunk.in_memory_storage())
    repo.create_branch("dev", repo.lookup_branch("main"))
    recorded = Recorded()
    made = [(make(repo, source, branch=branch, recorded=recorded), source) for branch, source in steps]
    assert [origin(repo, snapshot).source for snapshot, _ in made] == [source for _, source in made]
    for branch in ("main", "dev"):
        entries = [info.metadata[KEY] for info in repo.ancestry(branch=branch) if info.parent_id]
        held = [entry["source"] for entry in entries if "source" in entry]
        assert len(held) == len(set(held))


def test_what_is_remembered_of_a_history_equals_what_a_fresh_look_finds(repo):
    recorded = Recorded()
    for number in range(5):
        make(repo, f"x = {number % 3}", recorded=recorded)
        tip = repo.lookup_branch("main")
        assert recorded.upto(repo, tip) == Recorded().upto(repo, tip)


def test_packages_are_recorded_with_their_versions_and_read_back_from_the_first(repo):
    first, again = make(repo, "x"), make(repo, "x")
    assert f"icechunk {icechunk.__version__}" in entry(repo, first)["packages"]
    assert f"zarr {zarr.__version__}" in entry(repo, first)["packages"]
    assert "packages" not in entry(repo, again)
    assert origin(repo, again).facts == origin(repo, first).facts


# -- modes, facts, odd input -------------------------------------------------------------------------------------------


def test_mode_hash_keeps_the_source_out_and_mode_off_everything(repo):
    hashed = make(repo, "x = 1", mode="hash")
    assert "source" not in entry(repo, hashed)
    shown = origin(repo, hashed)
    assert shown.source is None
    assert entry(repo, hashed)["source_hash"] in repr(shown)
    off = make(repo, "x = 1", mode="off")
    assert KEY not in repo.lookup_snapshot(off).metadata
    assert repr(origin(repo, off)) == "nothing was recorded about how it came about"
    assert entry(repo, make(repo, "x = 1"))["source"] == "x = 1"


def test_all_facts_survive_the_repository(tmp_path):
    storage = icechunk.local_filesystem_storage(str(tmp_path))
    source = "x = 'é ☃ 𝄞'\n\tif y:\r\n"
    made = make(icechunk.Repository.create(storage), source, execution_count=7, notebook="a b.ipynb")
    again = icechunk.Repository.open(icechunk.local_filesystem_storage(str(tmp_path)))
    found = origin(again, made)
    assert found.source == source
    assert found.facts["author"] == "Ada"
    assert found.facts["execution count"] == "7"
    assert found.facts["notebook"] == "a b.ipynb"


def test_outside_a_notebook_the_script_is_named_and_no_source_recorded(repo, monkeypatch):
    monkeypatch.setattr("sys.argv", ["/home/ada/private/ingest.py"])
    assert entry(repo, make(repo, None))["script"] == "ingest.py"
    assert origin(repo, repo.lookup_branch("main")).source is None


def test_a_source_that_is_no_unicode_is_recorded_as_near_as_can_be(repo):
    assert origin(repo, make(repo, "x = '\ud800'")).source == "x = '?'"


def test_a_long_source_is_cut_with_a_word_about_it_and_told_apart_by_what_was_cut(repo):
    start = "x = 1\n" * (SOURCE_LIMIT // 6 + 1)
    one, two = make(repo, start + "a"), make(repo, start + "b")
    assert len(entry(repo, one)["source"]) < SOURCE_LIMIT + 60
    assert entry(repo, one)["source"].endswith("more characters are not recorded")
    assert entry(repo, one)["source_hash"] != entry(repo, two)["source_hash"]


def test_a_secret_across_the_cut_is_gone(repo):
    pad = "#" * (SOURCE_LIMIT - 10) + "\n"
    made = make(repo, f'{pad}key = "{SECRET}"')
    assert SECRET[:4] not in json.dumps(entry(repo, made))


def test_the_hash_is_that_of_the_redacted_source_so_that_a_short_secret_cannot_be_guessed_from_it(repo):
    one, two = (make(repo, f'pin = "{secret}"', mode="hash", secrets=[secret]) for secret in ("1234", "9876"))
    assert entry(repo, two).split()[0] == entry(repo, one)["hash"]


@pytest.mark.parametrize(
    "foreign",
    [
        "text",
        None,
        [1, 2],
        {"source": "x"},
        {"source": "x", "source_hash": [1]},
        {"source_hash": {"a": 1}, "packages_hash": 5},
        {"source_hash": "abc", "packages": "x"},
        {"hash": [1], "count": "many"},
        "0123456789abcdef 12 Ada",
    ],
)
def test_foreign_metadata_under_the_key_stop_neither_a_commit_nor_a_look(repo, foreign):
    made = repo.writable_session("main").commit("m", {KEY: foreign}, allow_empty=True)
    assert origin(repo, made).source is None
    assert origin(repo, make(repo, "x = 1")).source == "x = 1"


def test_a_hash_whose_source_is_gone_is_shown_as_a_hash(repo):
    made = repo.writable_session("main").commit("m", {KEY: {"source_hash": "abcd"}}, allow_empty=True)
    assert "only its hash abcd" in repr(origin(repo, made))


# -- git ---------------------------------------------------------------------------------------------------------------


def git(folder: Path, *arguments: str) -> str:
    identity = ("-c", "user.name=Grace Hopper", "-c", "user.email=g@h", "-c", "init.defaultBranch=main")
    done = subprocess.run(["git", *identity, *arguments], cwd=folder, check=True, capture_output=True, text=True)
    return done.stdout.strip()


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a git working tree with one commit, which is the working directory."""
    folder = tmp_path / "tree"
    folder.mkdir()
    git(folder, "init")
    git(folder, "commit", "--allow-empty", "-m", "one")
    monkeypatch.chdir(folder)
    return folder


def recorded_revision(repo) -> str | None:
    return origin(repo, make(repo, "x")).facts.get("git revision of the working directory")


def test_the_git_revision_follows_commits_amends_and_checkouts(repo, tree):
    seen = []
    for step in (
        ("commit", "--allow-empty", "-m", "two"),
        ("commit", "--allow-empty", "--amend", "-m", "three"),
        ("checkout", "--detach", "HEAD~1"),
        ("checkout", "-b", "other"),
        ("commit", "--allow-empty", "-m", "four"),
        ("reset", "--hard", "main"),
    ):
        git(tree, *step)
        assert recorded_revision(repo) == git(tree, "rev-parse", "HEAD")
        seen.append(git(tree, "rev-parse", "HEAD"))
    assert len(set(seen)) == 4


def test_the_git_revision_follows_a_repository_that_keeps_no_log_of_head(repo, tree):
    git(tree, "config", "core.logAllRefUpdates", "false")
    (tree / ".git" / "logs" / "HEAD").unlink()
    for message in ("two", "three"):
        git(tree, "commit", "--allow-empty", "-m", message)
        assert recorded_revision(repo) == git(tree, "rev-parse", "HEAD")


def test_the_git_revision_of_a_worktree_is_its_own(repo, tree, monkeypatch):
    git(tree, "worktree", "add", "../side", "-b", "side")
    side = tree.parent / "side"
    git(side, "commit", "--allow-empty", "-m", "two")
    (side / "below").mkdir()
    monkeypatch.chdir(side / "below")
    assert recorded_revision(repo) == git(side, "rev-parse", "HEAD") != git(tree, "rev-parse", "HEAD")


def test_without_commit_repository_git_or_folder_there_is_no_revision_and_no_error(repo, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert recorded_revision(repo) is None
    (tmp_path / ".git").write_bytes(b"\xff\x00 no such thing")
    assert recorded_revision(repo) is None
    (tmp_path / ".git").unlink()
    git(tmp_path, "init")
    assert recorded_revision(repo) is None
    git(tmp_path, "commit", "--allow-empty", "-m", "one")
    provenance._git.cache_clear()
    monkeypatch.setenv("PATH", "")
    assert recorded_revision(repo) is None
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    assert recorded_revision(repo) is None
    monkeypatch.chdir(tmp_path)


def test_the_author_is_the_configured_one_else_gits_else_the_login_name(repo, tree, monkeypatch):
    facts = {"cell": None, "mode": "source", "secrets": (), "recorded": Recorded()}
    tip = repo.lookup_branch("main")
    git(tree, "config", "user.name", "Grace Hopper")
    git(tree, "config", "user.email", "g@h")
    assert collect(repo, tip, author="Ada", **facts)[KEY]["author"] == "Ada"
    assert collect(repo, tip, author=None, **facts)[KEY]["author"] == "Grace Hopper"
    monkeypatch.setenv("GIT_AUTHOR_NAME", "Katherine Johnson")
    assert collect(repo, tip, author=None, **facts)[KEY]["author"] == "Katherine Johnson"
    monkeypatch.delenv("GIT_AUTHOR_NAME")
    provenance._git.cache_clear()
    monkeypatch.setenv("PATH", "")
    monkeypatch.setenv("LOGNAME", "login")
    assert collect(repo, tip, author=None, **facts)[KEY]["author"] == "login"
    provenance._git.cache_clear()


def test_git_is_asked_once_per_state(repo, tree, monkeypatch):
    recorded_revision(repo)
    before = provenance._git.cache_info().misses
    for _ in range(5):
        recorded_revision(repo)
    assert provenance._git.cache_info().misses == before


# -- secrets -----------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("no_secrets_around")
@pytest.mark.parametrize(("cell", "secret"), SECRETS)
def test_a_secret_is_gone(cell, secret):
    assert secret in cell
    redacted = redact(f"before = 1\n{cell}\nafter = 2\n")
    assert secret not in redacted
    assert REDACTED in redacted
    assert redacted.startswith("before = 1\n")
    if "PRIVATE KEY" not in cell:  # a key without its end may go on for many lines
        assert redacted.endswith("after = 2\n")
    assert redact(redacted) == redacted


@pytest.mark.usefixtures("no_secrets_around")
@pytest.mark.parametrize("cell", INNOCENT)
def test_an_innocent_cell_stays_as_it_is(cell):
    assert redact(cell) == cell


@pytest.mark.usefixtures("no_secrets_around")
@pytest.mark.parametrize(
    ("cell", "redacted"),
    [
        ('ds.sort(key="epoch", order="up")', f'ds.sort(key="{REDACTED}", order="up")'),
        ('f(key="", order="up")', 'f(key="", order="up")'),
        ("{'token': 'abc', 'url': 'x'}", f"{{'token': '{REDACTED}', 'url': 'x'}}"),
        ('token: str = "abc"  # why', f'token: str = "{REDACTED}"  # why'),
        ('key = ("abc"\n       "def")\nx = "y"', f'key = ("{REDACTED}")\nx = "y"'),
        ("open('ftp://bob:abc@host/a')", f"open('ftp://bob:{REDACTED}@host/a')"),
        ('get("http://h/?a=1&sig=abc&b=2")', f'get("http://h/?a=1&sig={REDACTED}&b=2")'),
        ('os.environ["A_KEY"] = "abc"; x = 1', f'os.environ["A_KEY"] = "{REDACTED}"; x = 1'),
        ('c = "AccountName=me;AccountKey=abc==;X=y"', f'c = "AccountName=me;AccountKey={REDACTED};X=y"'),
    ],
)
def test_only_the_secret_goes_and_the_code_around_it_stays(cell, redacted):
    assert redact(cell) == redacted


@settings(deadline=None)
@given(
    st.lists(st.text(min_size=1), min_size=1, max_size=3),
    st.lists(st.text(max_size=30), min_size=2, max_size=4),
)
def test_a_value_that_the_store_holds_never_survives(secrets, around):
    text = "".join(part + secret for part, secret in zip(around, secrets * 4, strict=False))
    for piece in redact(text, secrets).split(REDACTED):
        assert not any(secret in piece for secret in secrets)


def test_a_value_that_the_store_holds_is_found_in_the_forms_it_is_typed_in():
    secret = "a\\b/c+d=e'f"
    for typed in (secret, repr(secret), "https://h/?x=a%5Cb%2Fc%2Bd%3De%27f", "https://h/a%5Cb/c%2Bd%3De%27f"):
        assert "c+d" not in redact(typed, [secret])
        assert "c%2Bd" not in redact(typed, [secret])


def test_values_of_environment_variables_with_secret_names_are_gone_and_others_stay(monkeypatch):
    hidden = ("MY_API_KEY", "DB_PASSWORD", "DB_PASS", "PGPASSWORD", "X_TOKEN", "A_CREDENTIAL", "HTTP_AUTH", "BLOB_SAS")
    for number, name in enumerate(hidden):
        monkeypatch.setenv(name, f"value-of-{number}-end")
    monkeypatch.setenv("STATION", "rosalia-canopy")
    monkeypatch.setenv("SHORT_KEY", "main")
    text = redact("; ".join(f"value-of-{number}-end" for number in range(len(hidden))) + " main rosalia-canopy")
    assert "value-of" not in text
    assert text.endswith(" main rosalia-canopy")


ADVERSARIAL = MappingProxyType(
    {
        "one word": "a" * 20_000,
        "one secret word": "key" * 7_000,
        "dotted": "key." * 5_000,
        "dashed": "eyJ-" * 5_000,
        "names": "key,a," * 3_500,
        "spaces": "key" + " " * 20_000,
        "assignments": "key=" * 5_000,
        "open quotes": "key='''key=\"\"\"" * 1_500,
        "open strings": 'key="' * 4_000,
        "many strings": "key=" + '"a" ' * 5_000,
        "comments": 'key="a" #\n' * 2_000,
        "bare comments": 'key="a"' + "#\n" * 9_000,
        "urls": "://" * 6_600,
        "users": "://a:" + "b" * 20_000,
        "many users": "://a:b" * 3_300,
        "begin": "-----BEGIN " * 1_800,
        "bearer": "Bearer " * 2_800,
        "base64": "A1b" * 6_700,
        "quoted base64": "'A1b" * 5_000,
        "annotations": "key: a" * 3_300,
        "queries": "?key" * 5_000,
        "users of curl": "-u a" * 5_000,
        "backslashes": 'key="' + "\\" * 20_000,
        "brackets": 'auth=("' * 2_800,
        "semicolons": ";key=a" * 3_300,
        "export": "export key" * 2_000,
        "lines": "key: 1" + "a" * 20_000,
        "chain": "key=" + "a." * 9_900,
    }
)


@pytest.mark.usefixtures("no_secrets_around")
@pytest.mark.parametrize("kind", ADVERSARIAL)
def test_no_text_of_the_length_of_a_cell_takes_long(kind):
    text = ADVERSARIAL[kind]
    redact("warm")
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        redact(text)
        seconds.append(time.perf_counter() - start)
    assert min(seconds) < 0.2


def test_a_source_that_expired_while_the_store_was_open_is_recorded_again(tmp_path: Path) -> None:
    store = IcechunkStore.create(tmp_path / "store")
    cell = Cell("x = 1")

    def commit(number: int) -> None:
        with store.transaction(f"{number}", cell=cell):
            zarr.open_group(store).attrs["n"] = number

    for number in range(3):
        commit(number)
    assert store.show("HEAD").origin.source == cell.source
    store.expire(store.plan_expire(keep=1))
    assert store.show("HEAD").origin.source is None
    commit(3)
    assert store.show("HEAD").origin.source == cell.source
