"""The answers of the HTTP interface about the server."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class Result(BaseModel):
    """A part of an answer."""

    model_config = ConfigDict(from_attributes=True)


class StatsResult(Result):
    """A server in numbers."""

    connections: int = Field(description="Open connections to this process.")
    sessions: dict[Literal["connected", "connecting", "away"], int]
    rooms: int = Field(description="Rooms with members.")
    head_offset: str | None = Field(description="The offset of the last event; null without recovery.")
    pruned_through: int = Field(description="The sequence of the last deleted event; 0 for none.")
    recoveries: dict[str, int] = Field(description="Reconnections since the start, by result.")
    problems: list[str] = Field(description="Why the server is not ready; empty if it is.")
