"""The page that shows the HTTP interface, in a browser."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from support.api import KEY, call, result, serving_api
from support.processes import ServerProcess

if TYPE_CHECKING:
    from playwright.sync_api import Browser, ConsoleMessage


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ServerProcess]:
    with serving_api(tmp_path) as server:
        yield server


@pytest.mark.parametrize("width", [390, 1100])
def test_page_shows_every_operation(chromium: Browser, server: ServerProcess, width: int) -> None:
    """With a key the page shows every operation, within the width of the screen; a wrong key is explained."""
    page = chromium.new_page(viewport={"width": width, "height": 800})
    violations: list[str] = []
    page.on("pageerror", lambda error: violations.append(str(error)))

    def note(line: ConsoleMessage) -> None:
        if "Content Security" in line.text:
            violations.append(line.text)

    page.on("console", note)
    page.goto(f"{server.url}/api")
    page.get_by_label("Key").fill("wrong")
    page.get_by_role("button", name="Show").click()
    page.get_by_role("status").get_by_text("A valid key is needed").wait_for()
    page.get_by_label("Key").fill(KEY)
    page.get_by_role("button", name="Show").click()
    page.locator("summary").first.wait_for()
    summaries = page.locator("summary").all_inner_texts()
    described = result(call(server.port, "GET", "/openapi.json"), 200)
    operations = sum(map(len, described["paths"].values()))
    assert len(summaries) == operations and "/api/emit\nPublish one event" in summaries[0]
    for details in page.locator("summary").all():
        details.click()
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert "Idempotency-Key" in page.locator("details").first.inner_text()
    examples = page.locator("pre").all_inner_texts()
    assert any("/events/OFFSET/recipients" in example for example in examples)
    assert not any("%7B" in example for example in examples)  # a brace that stands for a value
    assert KEY not in page.content() and page.evaluate("localStorage.length + sessionStorage.length") == 0
    assert violations == []
    page.close()
