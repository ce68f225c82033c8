"""The pages of the handlers: text and relative paths, subfolders, and requests that find nothing."""

from __future__ import annotations

import http.client
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from support.command_line import MINIMAL, assert_refused, run, running, write_program_folder

REGISTER = "\n\ndef register(sio):\n    pass\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = write_program_folder(tmp_path)
    pages = folder / "pages"
    (pages / "css" / "deep").mkdir(parents=True)
    (pages / "index.html").write_text("index")
    (pages / "css" / "deep" / "a.css").write_text("style")
    (pages / "css" / "index.html").write_text("index of css")
    (folder / "data").mkdir(exist_ok=True)
    for hidden in (".env", ".git/config", "css/.secret", ".well-known/a"):
        (pages / hidden).parent.mkdir(exist_ok=True)
        (pages / hidden).write_text("hidden")
    return folder


def get(address: str, path: str) -> tuple[int, str]:
    """The answer to a path as it is: urllib would change it."""
    connection = http.client.HTTPConnection(urlsplit(address).netloc, timeout=30)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, response.read().decode()
    finally:
        connection.close()


@pytest.mark.parametrize(
    "pages", ['"pages"', '"./pages/"', '__import__("pathlib").Path("pages")', "ABSOLUTE"]
)
def test_pages(folder: Path, pages: str) -> None:
    """A text or path, relative or absolute, works, with subfolders and without what is outside."""
    pages = pages.replace("ABSOLUTE", repr(str(folder / "pages")))
    (folder / "handlers.py").write_text(f"import os\nos.chdir('/')\nPAGES = {pages}{REGISTER}")
    assert run(folder, "check-config").returncode == 0
    with running(folder, "serve") as (_, address):
        assert get(address, "/") == (200, "index")
        assert get(address, "/pages/index.html") == (200, "index")
        assert get(address, "/pages/css/deep/a.css") == (200, "style")
        assert get(address, "/pages/css/") == (200, "index of css")
        assert get(address, "/pages/.well-known/a") == (200, "hidden")
        nothing = (404, "There is no such page.")
        for path in (
            "/pages/css",
            "/pages/none.html",
            "/pages/" + "a" * 5000,
            "/pages/" + "a/" * 2500,
            "/pages/../config.toml",
            "/pages/%2e%2e/config.toml",
            "/pages/css/%2e%2e/%2e%2e/config.toml",
            "/pages/..%2fconfig.toml",
            "/pages/%2fetc/passwd",
            "/pages/a%00b",
            "/pages/index.html/a",
            "/pages/.env",
            "/pages/.git/config",
            "/pages/css/.secret",
            "/pages/%2eenv",
        ):
            assert get(address, path) in (nothing, (404, "404: Not Found")), path
    assert "Traceback" not in (folder / "log").read_text()


@pytest.mark.parametrize(
    ("pages", "error"),
    [
        ('""', "PAGES is empty; name a folder of its own"),
        ("42", "PAGES must be the path of a folder, not int"),
        ('"."', "PAGES: {folder} is public, and {folder} is in it"),
        ('"data"', "PAGES: {folder}/data is public, and {folder}/data/events.db is in it"),
        ('"none"', "PAGES: there is no folder {folder}/none"),
        ('"handlers.py"', "PAGES: there is no folder {folder}/handlers.py"),
        ("'a' * 300", "PAGES cannot be used: [Errno 36] File name too long: '{folder}/" + "a" * 300 + "'"),
    ],
)
@pytest.mark.parametrize("command", ["serve", "check-config"])
def test_wrong_pages(folder: Path, command: str, pages: str, error: str) -> None:
    """Pages that cannot work are reported at the start."""
    (folder / "handlers.py").write_text(f"PAGES = {pages}{REGISTER}")
    assert_refused(run(folder, command), f"handlers = 'handlers': {error.format(folder=folder)}")


@pytest.mark.parametrize(
    ("config", "file"),
    [
        ('[store]\npath = "pages/data.db"\n', "pages/data.db"),
        ('[store]\npath = "pages/data/data.db"\n', "pages/data/data.db"),
        ('[server]\ntls_certificate = "none.pem"\ntls_key = "pages/key"\n', "pages/key"),
        ('[auth]\nkey_file = "pages/key"\nalgorithms = ["HS256"]\n', "pages/key"),
    ],
)
def test_links_from_pages_to_private_files(folder: Path, config: str, file: str) -> None:
    """A link to the database or to a key would be served, and is reported at the start."""
    (folder / "key").write_text("k" * 32)
    (folder / "pages" / "data").symlink_to(folder / "data")
    for name in ("data.db", "key"):
        (folder / "pages" / name).symlink_to(folder / name)
    program = MINIMAL.removeprefix("[server]\n")
    text = f"{config}{program}" if config.startswith("[server]") else f"[server]\n{program}{config}"
    (folder / "config.toml").write_text(text)
    (folder / "handlers.py").write_text(f"PAGES = 'pages'{REGISTER}")
    checked = run(folder, "check-config")
    assert f"PAGES: {folder}/pages is public, and {folder}/{file} is in it" in checked.stderr
    assert checked.returncode == 2
