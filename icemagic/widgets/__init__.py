"""Widgets for the notebook; importing this package loads ipywidgets."""

from __future__ import annotations

from icemagic.widgets.picker import VersionPicker

__all__ = ["VersionPicker"]
