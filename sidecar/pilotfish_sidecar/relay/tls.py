"""TLS on both sides of the relay: ended here, made anew towards the model server.

Owns the contexts, their files, and what is offered by ALPN. It never sees a byte of a call.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

__all__ = ["PROTOCOLS", "TlsContexts", "TlsSettings", "alpn_of", "tls_problems"]

log = logging.getLogger(__name__)

PROTOCOLS: Final = ("h2", "http/1.1")
"""What is offered to clients, the preferred one first."""

_PROBE_S: Final = 5.0


@dataclass(frozen=True, slots=True)
class TlsSettings:
    """The files, and what is expected of the other sides.

    Attributes:
        certificate: PEM chain shown to clients.
        key: PEM of its key.
        client_ca: PEM of the authorities whose clients may come; None: clients show no certificate.
        upstream_ca: PEM of the authorities that model servers are trusted by; None: those of the system.
        upstream_name: name in the model server's certificate; empty: the host that is connected to.
        upstream_certificate: PEM chain shown to model servers; None: none is shown.
        upstream_key: PEM of its key.
        alpn: offered to clients, the preferred one first.
    """

    certificate: Path | None = None
    key: Path | None = None
    client_ca: Path | None = None
    upstream_ca: Path | None = None
    upstream_name: str = ""
    upstream_certificate: Path | None = None
    upstream_key: Path | None = None
    alpn: Sequence[str] = PROTOCOLS

    @property
    def files(self) -> tuple[Path, ...]:
        """Return the files that are read."""
        every = (
            self.certificate,
            self.key,
            self.client_ca,
            self.upstream_ca,
            self.upstream_certificate,
            self.upstream_key,
        )
        return tuple(path for path in every if path is not None)


def tls_problems(settings: TlsSettings, *, listens: bool, connects: bool) -> list[str]:
    """Return everything that is wrong with the settings.

    Args:
        settings: as given.
        listens: a listener ends TLS.
        connects: a model server is reached by TLS.
    """
    found = []
    if listens and (settings.certificate is None or settings.key is None):
        found.append("a tls:// listener needs --listen-certificate and --listen-key")
    if not listens and any((settings.certificate, settings.key, settings.client_ca)):
        found.append("--listen-certificate, --listen-key and --listen-client-ca need a listener tls://HOST:PORT=…")
    mine = (settings.upstream_ca, settings.upstream_name, settings.upstream_certificate, settings.upstream_key)
    if not connects and any(mine):
        found.append("--upstream-ca, -name, -certificate and -key need an upstream …=tls://HOST:PORT")
    if (settings.upstream_certificate is None) != (settings.upstream_key is None):
        found.append("--upstream-certificate and --upstream-key need each other")
    if unknown := [each for each in settings.alpn if each not in PROTOCOLS]:
        found.append(f"--listen-alpn {', '.join(unknown)}: only {' and '.join(PROTOCOLS)} are followed")
    if not found:
        for make, wanted in ((_server_context, listens), (_client_context, connects)):
            if wanted:
                try:
                    make(settings, settings.alpn)
                except (OSError, ssl.SSLError) as error:
                    found.append(_told(settings, error))
    return found


def _told(settings: TlsSettings, error: OSError) -> str:
    missing = [str(path) for path in settings.files if not path.is_file()]
    if missing:
        return f"there is no file {', '.join(missing)}"
    return f"{', '.join(map(str, settings.files))}: {error.reason if isinstance(error, ssl.SSLError) else error}"


def _server_context(settings: TlsSettings, alpn: Sequence[str]) -> ssl.SSLContext:
    assert settings.certificate is not None and settings.key is not None  # checked before
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(settings.certificate, settings.key)
    if settings.client_ca is not None:
        context.load_verify_locations(settings.client_ca)
        context.verify_mode = ssl.CERT_REQUIRED
    context.set_alpn_protocols(list(alpn))
    return context


def _client_context(settings: TlsSettings, alpn: Sequence[str]) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.SERVER_AUTH, cafile=settings.upstream_ca)
    if settings.upstream_certificate is not None and settings.upstream_key is not None:
        context.load_cert_chain(settings.upstream_certificate, settings.upstream_key)
    if alpn:
        context.set_alpn_protocols(list(alpn))
    return context


class TlsContexts:
    """The contexts of one relay; files that change are read again for the connections that come then.

    Args:
        settings: checked before.
    """

    def __init__(self, settings: TlsSettings) -> None:
        """Read nothing yet."""
        self.settings = settings
        self._servers: dict[int, tuple[ssl.SSLContext, tuple[str, ...]]] = {}
        self._clients: dict[str, ssl.SSLContext] = {}
        self._seen = self._stamps()

    def listening(self, index: int) -> ssl.SSLContext:
        """Return the context of a listener.

        Raises:
            OSError: a file cannot be read.
        """
        if index not in self._servers:
            self._servers[index] = (_server_context(self.settings, self.settings.alpn), tuple(self.settings.alpn))
        return self._servers[index][0]

    def connecting(self, alpn: str) -> ssl.SSLContext:
        """Return the context towards a model server that is to speak what the client chose; empty: nothing was chosen.

        Raises:
            OSError: a file cannot be read.
        """
        if alpn not in self._clients:
            self._clients[alpn] = _client_context(self.settings, [alpn] if alpn else [])
        return self._clients[alpn]

    def offer(self, index: int, alpn: str) -> None:
        """Offer clients of a listener only what its model server speaks."""
        context, offered = self._servers[index]
        if alpn in offered and offered != (alpn,):
            context.set_alpn_protocols([alpn])
            self._servers[index] = (context, (alpn,))

    def refresh(self) -> None:
        """Read files that changed; those that cannot be used leave what is in force."""
        stamps = self._stamps()
        if stamps == self._seen:
            return
        self._seen = stamps
        settings = self.settings
        try:
            if self._servers:
                # A pair that does not fit must not be half in force: it is tried on a context of its own.
                _server_context(settings, settings.alpn)
                for context, _ in self._servers.values():
                    assert settings.certificate is not None
                    context.load_cert_chain(settings.certificate, settings.key)
                    if settings.client_ca is not None:
                        context.load_verify_locations(settings.client_ca)
            self._clients = {alpn: _client_context(settings, [alpn] if alpn else []) for alpn in self._clients}
        except OSError as error:
            log.error("the new certificates are not taken, the old ones stay in force: %s", _told(settings, error))
        else:
            log.info("new certificates are in force for new connections")

    def _stamps(self) -> tuple[tuple[int, int], ...]:
        found = []
        for path in self.settings.files:
            with contextlib.suppress(OSError):
                status = path.stat()
                found.append((status.st_mtime_ns, status.st_ino))
        return tuple(found)


async def alpn_of(host: str, port: int, contexts: TlsContexts) -> str | None:
    """Return what a model server chooses when everything is offered; empty: nothing; None: it is not there."""
    try:
        context = _client_context(contexts.settings, PROTOCOLS)
        _, writer = await asyncio.wait_for(
            asyncio.open_connection(host, port, ssl=context, server_hostname=contexts.settings.upstream_name or host),
            _PROBE_S,
        )
    except (OSError, TimeoutError) as error:
        log.warning("%s:%d cannot be asked what it speaks: %s", host, port, error)
        return None
    chosen = writer.get_extra_info("ssl_object").selected_alpn_protocol()
    writer.close()
    with contextlib.suppress(OSError, TimeoutError):
        await asyncio.wait_for(writer.wait_closed(), _PROBE_S)
    return chosen or ""
