"""TLS with a certificate from files, which a reload exchanges while the server runs."""

from __future__ import annotations

import logging
import ssl
import stat
from pathlib import Path
from typing import Final

from socketio_eventstore.program.config import Config
from socketio_eventstore.program.errors import StartError

logger = logging.getLogger(__name__)

PROTOCOLS: Final = ("http/1.1",)
"""The protocols offered by ALPN: WebSockets over HTTP/2 are another protocol."""


class Tls:
    """The certificate of new connections."""

    @classmethod
    def configured(cls, config: Config) -> Tls | None:
        """Return the certificate of ``[server]``; None without a certificate. Raises StartError."""
        settings = config.server
        if not settings.tls_certificate:
            return None
        return cls(config.folder / settings.tls_certificate, config.folder / settings.tls_key)

    def __init__(self, certificate: Path, key: Path) -> None:
        """Load the files. Raises StartError, which names the file."""
        self._certificate = certificate
        self._key = key
        self._present = self._load()
        # The listeners keep the first context; each handshake changes to the present context. Loading another
        # certificate into a used context would keep the old certificate if the kinds of keys differ, and
        # might fail in the middle.
        self.context = self._load()
        self.context.sni_callback = self._use_present

    def reload(self) -> None:
        """Load the files again, for the connections to come. After an error the former certificate stays."""
        try:
            self._present = self._load()
        except StartError as error:
            logger.error("Reload: %s. The former certificate stays.", error)
        else:
            logger.info("Reload: new connections get the certificate in %s", self._certificate)

    def _use_present(self, connection: ssl.SSLObject, name: str | None, context: ssl.SSLContext) -> None:
        connection.context = self._present  # called without a name, too

    def _load(self) -> ssl.SSLContext:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.options |= ssl.OP_NO_RENEGOTIATION
        context.set_alpn_protocols(list(PROTOCOLS))
        for key, file in (("tls_certificate", self._certificate), ("tls_key", self._key)):
            try:
                with file.open("rb"):  # OpenSSL does not name the file
                    pass
            except (OSError, ValueError) as error:  # a name with a zero byte is a ValueError
                reason = error.strerror if isinstance(error, OSError) else error
                raise StartError(f"[server] {key} {file} cannot be read: {reason}") from error
        if stat.S_IMODE(self._key.stat().st_mode) & stat.S_IROTH:
            logger.warning("[server] tls_key %s can be read by everybody on this machine.", self._key)
        try:
            # Without a password OpenSSL would ask on the terminal.
            context.load_cert_chain(self._certificate, self._key, password="")
        except (ssl.SSLError, OSError, ValueError) as error:
            reason = getattr(error, "reason", None) or type(error).__name__
            text = f"tls_certificate {self._certificate} and tls_key {self._key}"
            raise StartError(
                f"[server] {text} cannot be used: {reason}; expected a certificate in PEM, with its chain, "
                "and its key without a password"
            ) from error
        return context
