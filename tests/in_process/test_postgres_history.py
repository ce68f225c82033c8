"""What several nodes on one database keep, and that these tests notice a store which does not."""

from __future__ import annotations

import pytest

from socketio_eventlog.errors import StoreError
from support.postgres import Cluster, shared_cluster
from support.postgres_sabotages import SABOTAGES, Scenario
from support.postgres_scenarios import SCENARIOS

TRIES = 5
"""A few sabotages show only if a read is under way at the right moment."""


@pytest.fixture
def cluster() -> Cluster:
    """The cluster of this process, which flushes nothing by itself."""
    return shared_cluster()


@pytest.fixture
def database(cluster: Cluster) -> str:
    return cluster.new_database("migrated")


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.__name__)
async def test_nodes_keep_one_history(cluster: Cluster, database: str, scenario: Scenario) -> None:
    """The docstring of the scenario says what holds."""
    await scenario(cluster, database)


@pytest.mark.parametrize("name", SABOTAGES)
async def test_a_sabotage_is_noticed(cluster: Cluster, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A store that breaks one rule fails its scenario."""
    sabotage, scenario = SABOTAGES[name]
    for _ in range(TRIES):
        database = cluster.new_database("migrated")
        with monkeypatch.context() as patch:
            sabotage(patch, cluster, database)
            try:
                await scenario(cluster, database)
            except (AssertionError, pytest.fail.Exception, StoreError):
                return
    pytest.fail("the scenario has not noticed it")
