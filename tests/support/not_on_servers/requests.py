"""Stands for a package that only clients in Python use: where a server runs, there may be none."""

from __future__ import annotations

raise ImportError("only clients need it")
