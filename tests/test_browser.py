"""The notebook as a person sees it: a real JupyterLab, driven in a real Chromium."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import ConsoleMessage, Locator, Page, Request, expect

import servers

pytestmark = pytest.mark.browser
expect.set_options(timeout=60_000)  # on a busy machine everything comes late

SETUP = """\
import numpy as np, pandas as pd, xarray as xr
from icemagic import IcechunkStore, VersionPicker
store = IcechunkStore.create("memory:browser")
def commit(message, days, group=None):
    epochs = pd.date_range("2025-01-01", periods=24 * days, freq="h")
    sids = [f"G{number:02}|L1|C" for number in range(1, 9)]
    snr = (("epoch", "sid"), np.full((24 * days, 8), 40.0 + days), {"units": "dB-Hz"})
    with store.transaction(message):
        ds = xr.Dataset({"SNR": snr}, {"epoch": epochs, "sid": sids}, {"site": "Rosalia"})
        ds.to_zarr(store, group=group, mode="w")
    store.tag(f"v{days}.0")
commit("Add 2025-01-01", 1)
commit("Add 2025-01-02\\n\\nThe receiver was moved <b>by hand</b>.", 2)
commit("Add 2025-01-03 with the canopy and the reference receiver in one long message that goes on and on", 3)"""
PICKER = "picker = VersionPicker(store)\npicker"
SAY = "print('STORE', store.version.message.split()[1], store.current_branch, picker.dataset.sizes['epoch'])"


@dataclass
class Notebook:
    """An open notebook; notes what leaves the machine and what the browser complains of."""

    page: Page
    lab: servers.JupyterLab
    outside: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.page.set_default_timeout(60_000)
        self.page.set_viewport_size({"width": 1100, "height": 1000})
        self.page.on("request", self._on_request)
        self.page.on("console", self._on_console)
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))

    def _on_request(self, request: Request) -> None:
        address = urlsplit(request.url)
        if address.hostname not in (servers.HOST, None) and address.scheme not in ("data", "blob"):
            self.outside.append(request.url)

    def _on_console(self, message: ConsoleMessage) -> None:
        if message.type == "error":
            self.complaints.append(message.text)

    def open(self, *cells: str, theme: str = "JupyterLab Light") -> None:
        """Write a notebook, open it, and wait until its kernel can be used."""
        path = self.lab.root / "notebook.ipynb"
        path.write_text(json.dumps(_document(cells)))
        self.page.goto(self.lab.notebook_url(path.name))
        self.page.wait_for_selector("#jupyterlab-splash", state="detached")
        # The toolbar says idle before there is a kernel; the status bar does not.
        expect(self.page.locator("#jp-main-statusbar")).to_contain_text(re.compile(r"\| Idle"), timeout=60_000)
        self.command("application:toggle-left-area")
        self.command("apputils:change-theme", f"{{theme: '{theme}'}}")
        light = "true" if "Light" in theme else "false"
        self.page.wait_for_selector(f"body[data-jp-theme-light='{light}']", state="attached")

    def command(self, name: str, arguments: str = "{}") -> None:
        self.page.evaluate(f"async () => {{ await window.jupyterapp.commands.execute('{name}', {arguments}) }}")

    def run_all(self) -> None:
        self.command("notebook:run-all-cells")

    def cell(self, index: int) -> Locator:
        return self.page.locator(".jp-CodeCell").nth(index)

    def run(self, index: int) -> Locator:
        """Run one cell and return its output once it is done."""
        cell = self.cell(index)
        before = cell.locator(".jp-InputPrompt").first.inner_text()
        cell.locator(".cm-content").click()
        self.page.keyboard.press("Control+Enter")
        expect(cell.locator(".jp-InputPrompt").first).not_to_have_text(before)
        expect(cell.locator(".jp-InputPrompt").first).to_have_text(re.compile(r"\[\d+\]:"))
        return cell.locator(".jp-OutputArea").first

    def start(self, index: int) -> None:
        """Start one cell and return while it runs."""
        self.cell(index).locator(".cm-content").click()
        self.page.keyboard.press("Control+Enter")
        expect(self.cell(index).locator(".jp-InputPrompt").first).to_have_text("[*]:")


@dataclass
class Picker:
    """The picker as it lies in the page."""

    root: Locator

    def dropdown(self, label: str) -> Locator:
        return self.root.get_by_label(label, exact=True)

    @property
    def handle(self) -> Locator:
        return self.root.get_by_role("slider")

    def expect_version(self, message: str, position: int) -> None:
        """Wait until the dropdown, the slider and the description show one version."""
        expect(self.dropdown("Version").locator("option:checked")).to_contain_text(message)
        expect(self.handle).to_have_attribute("aria-valuenow", re.compile(rf"^{position}(\.0)?$"))
        expect(self.root.locator(".icemagic strong").first).to_contain_text(message)


def _document(cells: tuple[str, ...]) -> dict[str, object]:
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    code = [
        {
            "cell_type": "code",
            "id": f"c{number}",
            "metadata": {},
            "outputs": [],
            "execution_count": None,
            "source": source,
        }
        for number, source in enumerate(cells)
    ]
    return {"nbformat": 4, "nbformat_minor": 5, "metadata": kernel, "cells": code}


@pytest.fixture
def notebook(jupyter_lab: servers.JupyterLab, page: Page) -> Iterator[Notebook]:
    opened = Notebook(page, jupyter_lab)
    yield opened
    assert opened.outside == []
    assert opened.complaints == []


@pytest.fixture
def picker(notebook: Notebook) -> Picker:
    return Picker(notebook.cell(1).locator(".jp-OutputArea").first)


def test_slider_and_dropdown_move_together_and_with_them_the_store(notebook, picker):
    notebook.open(SETUP, PICKER, SAY)
    notebook.run_all()
    picker.expect_version("Add 2025-01-03", 2)
    picker.handle.focus()
    for _ in range(2):
        notebook.page.keyboard.press("ArrowLeft")
    picker.expect_version("Add 2025-01-01", 0)
    expect(notebook.run(2)).to_contain_text("STORE 2025-01-01 None 24")
    picker.dropdown("Version").select_option(index=1)
    picker.expect_version("Add 2025-01-02", 1)
    expect(picker.root).to_contain_text("The receiver was moved <b>by hand</b>.")
    expect(notebook.run(2)).to_contain_text("STORE 2025-01-02 None 48")
    picker.handle.focus()
    notebook.page.keyboard.press("End")
    picker.expect_version("Add 2025-01-03", 2)
    expect(notebook.run(2)).to_contain_text("STORE 2025-01-03 main 72")
    picker.dropdown("Branch or tag").select_option(label="tag v1.0")
    expect(picker.root.locator(".icemagic strong").first).to_contain_text("Add 2025-01-01")
    expect(notebook.run(2)).to_contain_text("STORE 2025-01-01 None 24")


def test_a_refusal_while_a_cell_writes_is_shown_and_the_selection_goes_back(notebook, picker):
    write = (
        "import pathlib, time\n"
        "with store.transaction('Add 2025-01-04'):\n"
        "    xr.Dataset({'SNR': ('epoch', np.ones(96))}).to_zarr(store, mode='w')\n"
        "    while not pathlib.Path('go-on').exists(): time.sleep(0.05)\n"
    )
    notebook.open(SETUP, PICKER, write, SAY)
    for cell in range(2):
        notebook.run(cell)
    # JupyterLab sends the first event of a page to the kernel's main thread, where it waits for the running cell.
    picker.dropdown("Version").select_option(index=1)
    picker.expect_version("Add 2025-01-02", 1)
    picker.dropdown("Version").select_option(index=2)
    picker.expect_version("Add 2025-01-03", 2)
    notebook.start(2)
    picker.dropdown("Version").select_option(index=0)
    expect(picker.root.get_by_role("alert")).to_contain_text("a transaction is open on this store")
    picker.expect_version("Add 2025-01-03", 2)
    (notebook.lab.root / "go-on").touch()
    # The transaction ends whole, and the picker follows to what it committed.
    expect(notebook.cell(2).locator(".jp-InputPrompt").first).to_have_text(re.compile(r"\[\d+\]:"))
    picker.expect_version("Add 2025-01-04", 3)
    expect(notebook.run(3)).to_contain_text("STORE 2025-01-04 main 96")


@pytest.mark.parametrize("theme", ["JupyterLab Light", "JupyterLab Dark"])
def test_it_is_readable_in_both_themes_and_nothing_is_cut_off(notebook, picker, theme, tmp_path):
    canopy = "commit('Add the canopy receiver', 4, group='canopy')\npicker = VersionPicker(store)\npicker"
    notebook.open(SETUP, canopy, theme=theme)
    notebook.run_all()
    expect(picker.root).to_contain_text("Add the canopy receiver")
    picker.root.locator("summary").first.click()
    picker.dropdown("Group").select_option(label="/canopy")
    expect(picker.root.locator(".xr-header").first).to_be_visible()
    _screenshot(notebook, tmp_path, theme)
    for element in picker.root.locator(".widget-box, .widget-vbox, .widget-html-content, .jp-OutputArea-output").all():
        wider = element.evaluate("node => node.scrollWidth - node.clientWidth")
        assert wider <= 0, element.evaluate("node => node.outerHTML")[:300]
    for words in (picker.root.locator(".icemagic strong").first, picker.root.get_by_text("transactions commit there")):
        assert words.evaluate(CONTRAST) > 4.5
    lefts = {round(picker.dropdown(label).bounding_box()["x"]) for label in ("Branch or tag", "Version", "Group")}
    assert len(lefts) == 1


def _screenshot(notebook: Notebook, folder: Path, theme: str) -> None:
    notebook.page.screenshot(path=folder / f"picker-{theme.rpartition(' ')[2].lower()}.png")


def test_the_magics_work_from_opening_to_completion(notebook):
    notebook.open(
        "%load_ext icemagic\nimport numpy as np, xarray as xr\n%icechunk open memory:magics --create",
        "%%commit \"Add the first\"\nxr.Dataset({'x': ('t', np.arange(3))}).to_zarr(store)",
        "note = %ice branch canopy-experiment",
        "VersionPicker(store)",
        "",
    )
    notebook.run_all()
    expect(notebook.cell(1)).to_contain_text("1 array added")
    expect(notebook.cell(3).get_by_label("Version", exact=True)).to_contain_text("Add the first")
    notebook.cell(4).locator(".cm-content").click()
    notebook.page.keyboard.type("%ice switch canopy-e")
    notebook.page.keyboard.press("Tab")
    expect(notebook.page.locator(".jp-Completer-item")).to_contain_text("canopy-experiment")
    notebook.page.keyboard.press("Enter")
    expect(notebook.cell(4).locator(".cm-content")).to_have_text("%ice switch canopy-experiment")
    expect(notebook.run(4)).to_contain_text("on branch canopy-experiment")


# The contrast of an element's text against what lies behind it, as WCAG 2 defines it.
CONTRAST = """node => {
    const parse = text => text.match(/[\\d.]+/g).map(Number);
    const light = text => parse(text).slice(0, 3).map(value => value / 255)
        .map(value => value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4)
        .reduce((sum, value, index) => sum + value * [0.2126, 0.7152, 0.0722][index], 0);
    let behind = node;
    const fill = () => parse(getComputedStyle(behind).backgroundColor);
    while (behind.parentElement && fill().length === 4 && fill()[3] === 0) behind = behind.parentElement;
    const [a, b] = [light(getComputedStyle(node).color), light(getComputedStyle(behind).backgroundColor)];
    return (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
}"""
