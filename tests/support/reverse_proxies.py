"""nginx, HAProxy and Caddy with TLS, with the configurations of docs/proxies.md.

A configuration is filled in: ports and paths are replaced, and each must be present. The settings to run
beside the system's own proxy, such as a place for the pid, are in a second file.
"""

from __future__ import annotations

import os
import re
import shutil
import socket
import ssl
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Self

import pytest
import trustme

from socketio_eventstore.program.keys import hash_of
from support.api import KEY
from support.processes import DEADLINE, HANDLERS, HOST, ServerProcess, free_port

DOCUMENT = Path(__file__).parents[2] / "docs" / "proxies.md"
NAME = "chat.example.com"

NGINX = """
daemon off;
{user}
pid {folder}/nginx.pid;
error_log stderr;
events {{}}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    include {site};
}}
"""
CADDY = """
{{
    admin off
    https_port {port}
    auto_https disable_redirects
    storage file_system {folder}/caddy
}}
import {site}
"""


def documented(language: str, document: Path = DOCUMENT) -> str:
    """The only code block of a language in a document."""
    (block,) = re.findall(rf"^```{language}\n(.*?)^```$", document.read_text(), re.MULTILINE | re.DOTALL)
    return str(block)


def filled(text: str, values: Mapping[str, str]) -> str:
    for shown, value in values.items():
        assert shown in text, f"{shown} is not in the documentation"
        text = text.replace(shown, value)
    return text


def require(program: str) -> str:
    """The path of a program. Without the program the test is skipped; in CI the test fails."""
    found = shutil.which(program) or shutil.which(program, path="/usr/sbin:/usr/bin")
    if found is not None:
        return found
    text = f"{program} is not installed: apt install {program}"
    if os.environ.get("CI") == "true":
        pytest.fail(text)
    pytest.skip(text)


class ReverseProxy:
    """A context manager around a proxy in front of the ports of servers. Clients trust ``authority``."""

    language: str
    program: str
    document = DOCUMENT
    servers: Sequence[str] = ("127.0.0.1:3000",)
    """The addresses of the servers in the document."""

    def __init__(self, folder: Path, *ports: int) -> None:
        self.executable = require(self.program)
        folder.mkdir()
        self.folder, self.port = folder, free_port()
        self.authority = folder / "authority.pem"
        authority = trustme.CA()
        authority.cert_pem.write_to_path(str(self.authority))
        certificate = authority.issue_cert(NAME)
        for name, part in {
            "example.com.pem": certificate.cert_chain_pems[0],
            "example.com.key": certificate.private_key_pem,
            "example.com.both.pem": certificate.private_key_and_cert_chain_pem,
        }.items():
            part.write_to_path(str(folder / name))
        self.site = folder / "site"
        self.site.write_text(
            filled(
                documented(self.language, self.document),
                {"/etc/ssl": str(folder)}
                | {shown: f"{HOST}:{port}" for shown, port in zip(self.servers, ports, strict=True)},
            )
        )
        self.log_file = folder / "log"

    @property
    def url(self) -> str:
        return f"https://{NAME}:{self.port}"

    @property
    def trust(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=str(self.authority))

    def command(self) -> tuple[str, ...]:
        raise NotImplementedError

    def connect(self) -> ssl.SSLSocket:
        """A connection with TLS to the proxy."""
        return self.trust.wrap_socket(
            socket.create_connection((HOST, self.port), DEADLINE), server_hostname=NAME
        )

    def __enter__(self) -> Self:
        home = {"HOME": str(self.folder), "PATH": os.environ["PATH"]}
        with self.log_file.open("ab") as output:
            self._process = subprocess.Popen(
                self.command(), cwd=self.folder, env=home, stdout=output, stderr=subprocess.STDOUT
            )
        try:
            self._wait_until_ready()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        try:
            self._process.wait(DEADLINE)
        finally:
            self._process.kill()

    def _wait_until_ready(self) -> None:
        give_up = time.monotonic() + DEADLINE
        while time.monotonic() < give_up:
            with suppress(OSError), self.connect():
                return
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(0.02)
                break
        raise AssertionError(f"{self.program} is not ready:\n{self.log_file.read_text()}")


class Nginx(ReverseProxy):
    language = program = "nginx"

    def command(self) -> tuple[str, ...]:
        self.site.write_text(filled(self.site.read_text(), {"listen 443": f"listen {HOST}:{self.port}"}))
        main = self.folder / "nginx.conf"
        user = "user root;" if os.geteuid() == 0 else ""  # otherwise the folder is closed to the workers
        main.write_text(NGINX.format(folder=self.folder, site=self.site, user=user))
        return (self.executable, "-c", str(main))


class HAProxy(ReverseProxy):
    language = program = "haproxy"

    def command(self) -> tuple[str, ...]:
        self.site.write_text(filled(self.site.read_text(), {"bind :443": f"bind {HOST}:{self.port}"}))
        return (self.executable, "-db", "-f", str(self.site))


class Caddy(ReverseProxy):
    language, program = "caddyfile", "caddy"

    def command(self) -> tuple[str, ...]:
        main = self.folder / "Caddyfile"
        main.write_text(CADDY.format(folder=self.folder, site=self.site, port=self.port))
        return (self.executable, "run", "--adapter", "caddyfile", "--config", str(main))


PROXIES: tuple[type[ReverseProxy], ...] = (Nginx, HAProxy, Caddy)


class DocumentedServer(ServerProcess):
    """The server with the configuration of the documentation."""

    def __init__(self, folder: Path, handlers: str = HANDLERS.stem) -> None:
        super().__init__(folder)
        text = filled(documented("toml"), {"port = 3000": f"port = {self.port}"})
        keys = f'handlers = "{handlers}"\nping_interval = 1.0\n[connection_state_recovery]\n'
        self.config_file.write_text(text + keys)
        self.environ["EVENTSTORE_HTTP__API_KEYS"] = f"tests={hash_of(KEY)}"
