"""The version picker through its methods and traits: the view follows the store, whatever moves it or refuses to."""

from __future__ import annotations

import re
import threading
import time

import icechunk
import numpy as np
import pytest
import xarray as xr
import zarr
from IPython.core.interactiveshell import InteractiveShell
from traitlets.config import Config

from icemagic import IcechunkStore, VersionPicker
from icemagic.errors import NotWritableError, TransactionError, UnknownVersionError
from icemagic.widgets import picker as module

HOSTILE = "</pre><img src=x onerror=alert(1)><script>alert('x')</script>\n\x1b[31m<b>second line</b>"


def in_memory(request: pytest.FixtureRequest) -> IcechunkStore:
    return IcechunkStore.create(f"memory:{request.node.nodeid}")


@pytest.fixture
def empty(request):
    return in_memory(request)


@pytest.fixture
def store(empty):
    """Return a store with the versions "one", "two" and "three", in which x is 1, 2 and 3."""
    for number, message in enumerate(("one", "two", "three"), start=1):
        commit(empty, message, number)
    return empty


def commit(store: IcechunkStore, message: str, number: float, group: str | None = None) -> None:
    with store.transaction(message):
        xr.Dataset({"x": ("t", np.full(4, number))}).to_zarr(store, group=group, mode="w")


def chosen(picker: VersionPicker) -> str:
    """Return the message that the dropdown shows, once it is seen that every part shows the same version."""
    assert picker.versions.index == picker.slider.value
    assert picker.version is not None
    assert picker.versions.label.startswith(picker.version.summary())
    assert picker.version.summary() in picker.about.value
    assert picker.version == picker.store.version
    return picker.version.message


def x(picker: VersionPicker) -> float:
    return float(picker.dataset.x[0])


def choose_place(picker: VersionPicker, label: str) -> None:
    picker.places.index = picker.places.options.index(label)


def test_it_starts_where_the_store_stands(store):
    store.checkout("main~1")
    picker = VersionPicker(store)
    assert chosen(picker) == "two"
    assert picker.places.label == "branch main"
    assert len(picker.versions.options) == 3


def test_the_slider_moves_the_dropdown_the_store_and_the_dataset(store):
    picker = VersionPicker(store)
    picker.slider.value = 0
    assert (chosen(picker), x(picker)) == ("one", 1)
    assert float(xr.open_zarr(store).x[0]) == 1


def test_the_dropdown_moves_the_slider_the_store_and_the_dataset(store):
    picker = VersionPicker(store)
    picker.versions.index = 1
    assert (chosen(picker), x(picker)) == ("two", 2)
    assert float(xr.open_zarr(store).x[0]) == 2


def test_a_dataset_stays_what_it_was_when_another_version_is_chosen(store):
    picker = VersionPicker(store)
    newest = picker.dataset
    picker.slider.value = 0
    assert float(newest.x[0]) == 3


def test_the_dataset_is_of_the_version_shown_and_not_of_a_transaction_or_a_moved_store(store):
    picker = VersionPicker(store)
    with store.transaction("four"):
        xr.Dataset({"x": ("t", np.full(4, 4.0))}).to_zarr(store, mode="w")
        assert x(picker) == 3
    store.checkout("main~3")
    assert (picker.version.message, x(picker)) == ("three", 3)


def test_an_older_version_cannot_be_written_and_the_newest_of_the_branch_can(store):
    picker = VersionPicker(store)
    picker.slider.value = 1
    assert "read-only" in picker.about.value
    with pytest.raises(TransactionError, match="stands on the version"), store.transaction("four"):
        pass
    picker.slider.value = 2
    assert store.current_branch == "main"
    commit(store, "four", 4)
    picker.refresh()
    assert chosen(picker) == "four"


def test_the_newest_version_that_is_listed_is_taken_at_its_word_when_the_branch_went_on(store):
    picker = VersionPicker(store)
    picker.slider.value = 0
    other = IcechunkStore.open(store.repo)
    commit(other, "four", 4)
    picker.slider.value = 2
    assert chosen(picker) == "three"
    assert store.current_branch is None


def test_a_refusal_is_shown_and_the_selection_goes_back(store):
    picker = VersionPicker(store)
    with store.transaction("four"):
        xr.Dataset({"x": ("t", np.full(4, 4.0))}).to_zarr(store, mode="w")
        picker.slider.value = 0
        assert chosen(picker) == "three"
        assert 'role="alert"' in picker.alert.value
        assert "a transaction is open" in picker.alert.value
        picker.versions.index = 1
        assert chosen(picker) == "three"
    assert [version.message for version in store.list_versions()] == ["one", "two", "three", "four"]
    picker.versions.index = 1
    assert (chosen(picker), picker.alert.value) == ("two", "")


def test_a_refused_branch_goes_back_too(store):
    store.branch("dev", "main~1")
    picker = VersionPicker(store)
    with store.transaction("four"):
        choose_place(picker, "branch dev")
        assert picker.places.label == "branch main"
        assert "a transaction is open" in picker.alert.value
        assert chosen(picker) == "three"


def test_choosing_a_branch_switches_to_its_newest_version(store):
    store.branch("dev", "main~2")
    picker = VersionPicker(store)
    choose_place(picker, "branch dev")
    assert store.current_branch == "dev"
    assert (chosen(picker), len(picker.versions.options)) == ("one", 1)
    commit(store, "aside", 7)
    picker.refresh()
    assert (chosen(picker), len(picker.versions.options)) == ("aside", 2)


def test_choosing_a_tag_checks_it_out_even_where_a_branch_has_its_name(store):
    store.tag("v1", "main~1")
    store.repo.create_branch("v1", store.resolve("main~2"))
    picker = VersionPicker(store)
    choose_place(picker, "tag v1")
    assert (chosen(picker), store.current_branch) == ("two", None)
    assert len(picker.versions.options) == 2
    choose_place(picker, "branch v1")
    assert (chosen(picker), store.current_branch) == ("one", "v1")


def test_main_comes_first_and_branches_before_tags(store):
    for name in ("a", "z"):
        store.branch(name)
        store.tag(f"{name}.0")
    labels = ("branch main", "branch a", "branch z", "tag a.0", "tag z.0")
    assert VersionPicker(store).places.options == labels


def test_a_version_on_no_branch_and_no_tag_is_shown_with_its_history(store):
    store.branch("dev")
    store.switch("dev")
    commit(store, "aside", 7)
    store.checkout(store.version)
    store.repo.delete_branch("dev")
    picker = VersionPicker(store)
    assert chosen(picker) == "aside"
    assert picker.places.label == f"version {store.version.id[:8]}"
    assert len(picker.versions.options) == 4
    choose_place(picker, "branch main")
    assert chosen(picker) == "three"
    assert picker.places.options == ("branch main",)


def test_refresh_picks_up_new_versions_and_keeps_the_selection(store):
    picker = VersionPicker(store)
    picker.slider.value = 1
    commit(IcechunkStore.open(store.repo), "four", 4)
    store.tag("v1", "main")
    picker.refresh_button.click()
    assert chosen(picker) == "two"
    assert len(picker.versions.options) == 4
    assert "tag v1" in picker.places.options
    assert store.current_branch is None


def test_refresh_leaves_a_store_on_its_branch_where_it_is_and_says_so(store):
    picker = VersionPicker(store)
    commit(IcechunkStore.open(store.repo), "four", 4)
    picker.refresh_button.click()
    assert chosen(picker) == "three"
    assert (store.current_branch, "1 version back" in picker.about.value) == ("main", True)


def test_refresh_asks_the_store_for_no_move(store):
    picker = VersionPicker(store)
    store.branch("dev", "main~1")
    with store.transaction():
        commit(IcechunkStore.open(store.repo), "four", 4)
        picker.refresh_button.click()
        assert (len(picker.versions.options), len(picker.places.options)) == (4, 2)
        assert (chosen(picker), picker.alert.value) == ("three", "")


def test_refresh_keeps_the_chosen_tag(store):
    store.tag("v1", "main~1")
    picker = VersionPicker(store)
    choose_place(picker, "tag v1")
    picker.slider.value = 0
    picker.refresh()
    assert (chosen(picker), picker.places.label) == ("one", "tag v1")


def test_pickers_on_one_store_move_together(store):
    first, second = VersionPicker(store), VersionPicker(store)
    first.slider.value = 0
    assert chosen(second) == "one"
    second.versions.index = 1
    assert chosen(first) == "two"


def test_pickers_on_two_stores_of_one_repository_do_not(store):
    first, second = VersionPicker(store), VersionPicker(IcechunkStore.open(store.repo))
    first.slider.value = 0
    assert (chosen(first), chosen(second)) == ("one", "three")


def test_after_a_cell_it_follows_the_store(store):
    config = Config()
    config.HistoryManager.enabled = False
    InteractiveShell.clear_instance()
    shell = InteractiveShell.instance(config=config)
    try:
        picker = VersionPicker(store)
        shell.user_ns["store"] = store
        shell.run_cell("store.checkout('main~2')")
        assert chosen(picker) == "one"
        shell.run_cell("store.switch('main')")
        assert chosen(picker) == "three"
        shell.user_ns["picker"] = picker
        shell.run_cell("with store.transaction('four') as txn:\n  txn.session.store; picker.slider.value = 0")
        shell.run_cell("store.checkout('main~1')")
        assert (chosen(picker), "a transaction is open" in picker.alert.value) == ("two", True)
    finally:
        InteractiveShell.clear_instance()


def test_only_so_many_pickers_follow_and_closed_ones_do_not(store):
    pickers = [VersionPicker(store) for _ in range(module.FOLLOWERS + 1)]
    pickers[-1].close()
    pickers[-2].slider.value = 0
    assert [chosen(picker) for picker in pickers[1:-1]] == ["one"] * (module.FOLLOWERS - 1)
    assert [picker.version.message for picker in (pickers[0], pickers[-1])] == ["three", "three"]


def test_an_empty_store_says_so_and_fills_on_refresh(empty):
    picker = VersionPicker(empty)
    assert "branch main holds no version yet" in picker.about.value
    assert (picker.version, picker.versions.disabled, picker.slider.layout.display) == (None, True, "none")
    assert repr(picker) == "VersionPicker(main, 0 versions)"
    with pytest.raises(UnknownVersionError, match="No version is chosen"):
        _ = picker.dataset
    commit(empty, "one", 1)
    picker.refresh()
    assert (chosen(picker), picker.versions.disabled, x(picker)) == ("one", False, 1)


def test_a_store_before_the_first_version_lets_one_be_chosen(empty):
    commit(IcechunkStore.open(empty.repo), "one", 1)
    picker = VersionPicker(empty)
    assert (picker.version, "before the first version" in picker.about.value) == (None, True)
    picker.versions.index = 0
    assert chosen(picker) == "one"


def test_groups_are_offered_and_the_chosen_one_is_kept_through_the_versions(store):
    commit(store, "canopy", 5, group="rosalia/canopy")
    commit(store, "reference", 6, group="rosalia/reference")
    picker = VersionPicker(store)
    assert picker.groups.options == ("/", "/rosalia/canopy", "/rosalia/reference")
    assert (picker.group, x(picker)) == (None, 3)
    picker.groups.index = 2
    assert (picker.group, x(picker)) == ("rosalia/reference", 6)
    picker.slider.value = 3
    assert (picker.groups.options, picker.group) == (("/", "/rosalia/canopy"), None)
    picker.slider.value = 0
    assert picker.groups.layout.display == "none"
    picker.slider.value = 4
    assert (picker.group, picker.groups.layout.display) == ("rosalia/reference", None)


def test_data_in_a_subgroup_only_are_shown_under_its_name(empty):
    commit(empty, "one", 1, group="canopy")
    picker = VersionPicker(empty)
    assert (picker.groups.options, picker.groups.layout.display, x(picker)) == (("/canopy",), None, 1)


def test_a_version_without_arrays_says_so(empty):
    with empty.transaction("only a group"):
        zarr.create_group(empty, attributes={"a": 1})
    assert "holds no array" in VersionPicker(empty).contents.value


def test_data_that_xarray_cannot_open_are_reported_and_the_store_moves_all_the_same(store):
    with store.transaction("no dimension names"):
        zarr.create_array(store, name="bare", data=np.arange(3))
    picker = VersionPicker(store)
    assert chosen(picker) == "no dimension names"
    assert re.search('role="alert".*cannot be shown as a dataset.*KeyError', picker.contents.value)
    picker.slider.value = 2
    assert (chosen(picker), "role=" in picker.contents.value) == ("three", False)
    picker.slider.value = 3
    assert (chosen(picker), "role=" in picker.contents.value) == ("no dimension names", True)


def test_an_unexpected_error_is_shown_and_raised(store, monkeypatch):
    picker = VersionPicker(store)

    def broken(*_):
        raise AssertionError("<b>a fault of ours</b>")

    monkeypatch.setattr(store, "checkout", broken)
    with pytest.raises(AssertionError):
        picker.slider.value = 0
    assert "AssertionError: &lt;b&gt;a fault of ours" in picker.alert.value
    assert chosen(picker) == "three"


def test_a_storage_that_fails_is_no_empty_store(tmp_path):
    store = IcechunkStore.create(tmp_path / "s")
    commit(store, "one", 1)
    commit(store, "two", 2)
    picker = VersionPicker(store)
    (tmp_path / "s").rename(tmp_path / "away")
    picker.slider.value = 0
    assert "Error" in picker.alert.value
    assert len(picker.versions.options) == 2
    with pytest.raises((icechunk.IcechunkError, OSError)):
        VersionPicker(store)
    (tmp_path / "away").rename(tmp_path / "s")
    picker.refresh_button.click()
    assert picker.alert.value == ""
    chosen(picker)


def test_hostile_names_are_escaped_everywhere(store):
    with store.transaction(HOSTILE):
        data = xr.Dataset({"<script>v": ("<img>d", [1.0])}, attrs={"<script>a": "</div><script>b"})
        data.to_zarr(store, group="<script>g", mode="w")
    store.repo.create_branch("<script>branch", store.resolve("main"))
    picker = VersionPicker(store)
    choose_place(picker, "branch <script>branch")
    picker.groups.index = picker.groups.options.index("/<script>g")
    bundle = picker._repr_mimebundle_()
    for shown in (picker.about.value, picker.contents.value, picker.alert.value, bundle["text/html"]):
        assert not re.search("<(script|img|b)\\b", shown)
        assert "\x1b" not in shown
    assert "&lt;script&gt;" in picker.about.value
    assert all(char.isprintable() for char in picker.versions.label)


def test_without_a_browser_there_are_a_table_and_a_text_that_stays_the_same(store):
    picker = VersionPicker(store)
    bundle = picker._repr_mimebundle_()
    assert bundle["text/plain"] == repr(picker) == "VersionPicker(main, 3 versions)"
    assert bundle["text/html"] == store.log()._repr_html_()
    assert "application/vnd.jupyter.widget-view+json" in bundle


def test_a_long_history_is_cut_and_says_so(store, monkeypatch):
    monkeypatch.setattr(module, "LIMIT", 2)
    picker = VersionPicker(store)
    assert len(picker.versions.options) == 2
    assert "Only the newest 2 versions" in picker.about.value
    assert repr(picker) == "VersionPicker(main, the newest 2 versions)"
    picker.slider.value = 0
    assert chosen(picker) == "two"
    store.checkout("main~2")
    picker.refresh()
    assert chosen(picker) == "one"
    assert picker.places.label.startswith("version ")


def test_threads_that_choose_at_once_leave_one_truth(store):
    picker, other = VersionPicker(store), VersionPicker(store)
    errors = []

    def hammer(view: VersionPicker, first: int) -> None:
        try:
            for step in range(6):
                view.slider.value = (first + step) % 3
                view.versions.index = (first + 2 * step) % 3
                if step % 3 == 0:
                    view.refresh_button.click()
        except BaseException as error:
            errors.append(error)
            raise

    threads = [threading.Thread(target=hammer, args=(view, i)) for i, view in enumerate((picker, picker, other, other))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert not errors
    for view in (picker, other):
        assert view.alert.value == ""
        view.follow()
    assert chosen(picker) == chosen(other)
    assert x(picker) == {"one": 1, "two": 2, "three": 3}[chosen(picker)]


def test_the_store_is_moved_by_one_thread_at_a_time(store, monkeypatch):
    pickers = VersionPicker(store), VersionPicker(store)
    checkout, inside, most = store.checkout, [], []

    def slow_checkout(ref):
        inside.append(ref)
        most.append(len(inside))
        time.sleep(0.1)
        status = checkout(ref)
        inside.pop()
        return status

    monkeypatch.setattr(store, "checkout", slow_checkout)
    moves = [threading.Thread(target=setattr, args=(picker.slider, "value", i)) for i, picker in enumerate(pickers)]
    for move in moves:
        move.start()
    for move in moves:
        move.join(timeout=60)
    assert most == [1, 1]


def test_a_read_only_store_can_be_looked_through(store):
    picker = VersionPicker(IcechunkStore.open(store.repo, read_only=True))
    picker.slider.value = 0
    assert (chosen(picker), "open read-only" in picker.about.value) == ("one", True)
    with pytest.raises(NotWritableError), picker.store.transaction("four"):
        pass


def test_something_that_is_no_store_is_refused_with_a_sentence(store):
    with pytest.raises(TypeError, match="shows an IcechunkStore, not Repository"):
        VersionPicker(store.repo)
