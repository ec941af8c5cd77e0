"""Reads rows from an HTTP(S) API that answers JSON, page by page.

Owns paging, retries and the guards of a request that leaves the machine: only public addresses (or allowed ones), the
connection goes to the address that was checked, redirects are checked like the first request, answers have a size.
Header values never appear in a message.
"""

from __future__ import annotations

import http.client
import json
import socket
import ssl
import time
import urllib.parse
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from pilotfish_control_plane.trainer.addresses import AddressRefused, checked_addresses
from pilotfish_control_plane.trainer.file_source import SourceError, records_frame
from pilotfish_control_plane.trainer.spec import ApiSource

__all__ = ["HttpReader", "read_api"]

_MAX_PAGE_BYTES = 64 * 1024**2
_MAX_REDIRECTS = 3
_ATTEMPTS = 4
_RETRIED = frozenset({429, 500, 502, 503, 504})
_REDIRECTS = frozenset({301, 302, 303, 307, 308})


class _Retry(Exception):
    """The request may work a little later."""

    def __init__(self, message: str, after_s: float | None = None) -> None:
        super().__init__(message)
        self.after_s = after_s


@dataclass(slots=True)
class HttpReader:
    """Sends GET requests to allowed addresses only.

    Args:
        allow_private: networks (CIDR) that may be reached though they are not public.
        timeout_s: seconds for each request.
        sleep: waits between attempts; replaced in tests.
    """

    allow_private: Sequence[str] = ()
    timeout_s: float = 30.0
    sleep: Callable[[float], None] = field(default=time.sleep)

    def get_json(self, url: str, headers: Mapping[str, str]) -> Any:
        """Return the parsed answer, after up to four attempts at a busy or failing server.

        Raises:
            SourceError: the address is refused, the server keeps failing, or the answer is no JSON.
        """
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                return self._follow(url, dict(headers))
            except _Retry as problem:
                if attempt == _ATTEMPTS:
                    raise SourceError(f"{problem} ({_ATTEMPTS} attempts)") from None
                usual = 0.25 * 2 ** (attempt - 1)
                self.sleep(min(30.0, usual if problem.after_s is None else problem.after_s))
        raise AssertionError("unreachable")

    def _follow(self, url: str, headers: dict[str, str]) -> Any:
        origin = _origin(url)
        for _ in range(_MAX_REDIRECTS + 1):
            status, answer_headers, body = self._request(url, headers)
            if status not in _REDIRECTS:
                return _checked_body(url, status, answer_headers, body)
            location = answer_headers.get("location", "")
            target = urllib.parse.urljoin(url, location)
            if _origin(target) != origin:
                headers = {}  # keys and tokens are for the host they were given for
            if url.startswith("https:") and not target.startswith("https:"):
                raise SourceError(f"{_shown(url)} redirects from https to http; use the final endpoint")
            url = target
        raise SourceError(f"{_shown(url)} redirects more than {_MAX_REDIRECTS} times")

    def _request(self, url: str, headers: Mapping[str, str]) -> tuple[int, Mapping[str, str], bytes]:
        parts = urllib.parse.urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise SourceError(f"{_shown(url)!r} is no http or https URL")
        if parts.username or parts.password:
            raise SourceError(f"{_shown(url)} has a password in it; put it into a header")
        try:
            port = parts.port or (443 if parts.scheme == "https" else 80)
            addresses = checked_addresses(parts.hostname, port, self.allow_private)
        except (AddressRefused, ValueError) as error:
            raise SourceError(f"{_shown(url)} is refused: {error}") from error
        path = urllib.parse.urlunsplit(("", "", parts.path or "/", parts.query, ""))
        sent = {"Accept": "application/json", "Accept-Encoding": "identity", "User-Agent": "pilotfish", **headers}
        connection = _connection(parts.scheme, parts.hostname, port, addresses, self.timeout_s)
        try:
            connection.request("GET", path, headers=sent)
            response = connection.getresponse()
            body = response.read(_MAX_PAGE_BYTES + 1)
            found = {name.lower(): value for name, value in response.getheaders()}
            return response.status, found, body
        except ssl.SSLError as error:  # before ValueError: a certificate that does not verify is one as well
            raise SourceError(f"{_shown(url)} has no valid certificate: {error}") from error
        except ValueError:  # http.client's own text would show the header
            raise SourceError(f"{_shown(url)} cannot be asked: a header or the path has control characters") from None
        except (OSError, http.client.HTTPException) as error:
            raise _Retry(f"{_shown(url)} did not answer: {error or type(error).__name__}") from error
        finally:
            connection.close()


def _connection(
    scheme: str, host: str, port: int, addresses: Sequence[str], timeout_s: float
) -> http.client.HTTPConnection:
    """Return a connection that goes to a checked address; the name is used for TLS and the Host header only."""
    if scheme == "https":
        connection: http.client.HTTPConnection = http.client.HTTPSConnection(
            host, port, timeout=timeout_s, context=ssl.create_default_context()
        )
    else:
        connection = http.client.HTTPConnection(host, port, timeout=timeout_s)

    def connect(_: object, timeout: float, *args: object) -> socket.socket:
        failure: OSError | None = None
        for address in addresses:
            try:
                return socket.create_connection((address, port), timeout)
            except OSError as error:
                failure = error
        raise failure or OSError("no address")

    connection._create_connection = connect  # type: ignore[attr-defined]  # the hook urllib3 uses too; not in typeshed
    return connection


def _checked_body(url: str, status: int, headers: Mapping[str, str], body: bytes) -> Any:
    if status in _RETRIED:
        after = headers.get("retry-after", "")
        raise _Retry(f"{_shown(url)} answered {status}", float(after) if after.isdigit() else None)
    if status != 200:
        text = body[:200].decode("utf-8", "replace").strip()
        raise SourceError(f"{_shown(url)} answered {status}: {text}")
    if len(body) > _MAX_PAGE_BYTES:
        raise SourceError(f"{_shown(url)} answered more than {_MAX_PAGE_BYTES} bytes; ask for smaller pages")
    try:
        return json.loads(body)
    except ValueError as error:
        raise SourceError(f"{_shown(url)} answered no JSON: {error}") from error


def _origin(url: str) -> tuple[str, str | None, int | None]:
    parts = urllib.parse.urlsplit(url)
    return parts.scheme, parts.hostname, parts.port


def _shown(url: str) -> str:
    """Return the URL without its query, which may hold a key."""
    parts = urllib.parse.urlsplit(url)
    host = parts.hostname or ""
    return f"{parts.scheme}://{host}{f':{parts.port}' if parts.port else ''}{parts.path}"


def read_api(source: ApiSource, reader: HttpReader) -> pd.DataFrame:
    """Return the rows of all pages.

    Raises:
        SourceError: a request fails, an answer has not the shape that was said, or there are too many pages or rows.
    """
    records: list[Any] = []
    for page in _pages(source, reader):
        records.extend(page)
        if len(records) > source.max_rows:
            raise SourceError(f"{_shown(source.endpoint)} gives more than max_rows = {source.max_rows} rows")
    return records_frame(records, _shown(source.endpoint))


def _pages(source: ApiSource, reader: HttpReader) -> Iterator[list[Any]]:
    paging = source.pagination
    cursor = ""
    seen: set[str] = set()
    fetched = 0
    for index in range(paging.max_pages):
        query = dict(source.parameters)
        if paging.size_parameter:
            query[paging.size_parameter] = str(paging.size)
        if paging.style == "page":
            query[paging.parameter] = str(paging.first + index)
        elif paging.style == "offset":
            query[paging.parameter] = str(fetched)
        elif paging.style == "cursor" and cursor:
            query[paging.parameter] = cursor
        answer = reader.get_json(_with_query(source.endpoint, query), source.headers)
        page = _records(answer, source)
        fetched += len(page)
        yield page
        if paging.style == "cursor":
            cursor = _cursor(answer, source)
            if cursor in seen:
                raise SourceError(f"{_shown(source.endpoint)} gives the cursor {cursor!r} twice; it would never end")
            seen.add(cursor)
        full = bool(page) and (not paging.size_parameter or len(page) >= paging.size)
        if paging.style == "none" or (paging.style == "cursor" and not cursor):
            return
        if paging.style in ("page", "offset") and not full:
            return
    raise SourceError(f"{_shown(source.endpoint)} has more than max_pages = {paging.max_pages} pages")


def _with_query(endpoint: str, query: Mapping[str, str]) -> str:
    parts = urllib.parse.urlsplit(endpoint)
    pairs = [*urllib.parse.parse_qsl(parts.query, keep_blank_values=True), *query.items()]
    return urllib.parse.urlunsplit(parts._replace(query=urllib.parse.urlencode(pairs), fragment=""))


def _records(answer: Any, source: ApiSource) -> list[Any]:
    found = _at(answer, source.records_path)
    if not isinstance(found, list):
        where = source.records_path or "the answer itself"
        raise SourceError(
            f"{_shown(source.endpoint)}: {where} is {type(found).__name__}, not an array; set records_path"
        )
    return found


def _cursor(answer: Any, source: ApiSource) -> str:
    found = _at(answer, source.pagination.cursor_path)
    if found is None or found is False:
        return ""
    if not isinstance(found, (str, int)):
        raise SourceError(f"{_shown(source.endpoint)}: {source.pagination.cursor_path} is no text, but {found!r}")
    return str(found)


def _at(answer: Any, path: str) -> Any:
    for part in [item for item in path.split(".") if item]:
        answer = answer.get(part) if isinstance(answer, dict) else None
    return answer
