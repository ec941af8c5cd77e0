"""`FleetRegistry`: who is connected here, and what each is told.

Owns the open streams of this control plane, their heartbeats, the push of configuration when it changes, and the
batches in which members, links and reports reach the database. A stream that goes moves no traffic: its member is
UNKNOWN, then LOST when its lease is over.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta

from pilotfish.errors import Aborted, DeadlineExceeded, NotFound
from pilotfish_control_plane.clock import Clock
from pilotfish_control_plane.deployments.changes import FLEET_TOPIC
from pilotfish_control_plane.deployments.model import LinkState
from pilotfish_control_plane.deployments.node_side import NodeSide, ReplicaBinding
from pilotfish_control_plane.deployments.rules.attaching import governing
from pilotfish_control_plane.fleet.model import Hello, Member, MemberKind, NodeReport, SidecarReplica
from pilotfish_control_plane.fleet.presence import Presence
from pilotfish_control_plane.fleet.sessions import Command, Configuration, Session
from pilotfish_control_plane.storage import fleet as rows
from pilotfish_control_plane.storage import replicas as replica_rows
from pilotfish_control_plane.storage.database import Database
from pilotfish_control_plane.storage.transaction import Tx

__all__ = ["FleetRegistry", "Terms"]

log = logging.getLogger(__name__)

SWEEP_S = 5.0
GATHER_S = 0.01
COMMAND_EXPIRES_S = 60.0
CAPTURE_EVERY_S = 1.0
WATCH_EVERY_S = 0.5

StoreSidecar = Callable[[Tx, Mapping[str, SidecarReplica]], None]


@dataclass(frozen=True, slots=True)
class Terms:
    """How often a member must be heard: seconds between heartbeats, and seconds of silence that make it lost."""

    heartbeat_interval_s: float
    lease_s: float


TERMS = {MemberKind.NODE: Terms(2.0, 8.0), MemberKind.SIDECAR: Terms(5.0, 15.0)}


class FleetRegistry:
    """The streams of this control plane; everything here runs in its event loop."""

    def __init__(
        self,
        db: Database,
        clock: Clock,
        deployments: Callable[[], NodeSide],
        store_sidecar: StoreSidecar,
        server: str,
        terms: Mapping[MemberKind, Terms] = TERMS,
    ) -> None:
        """Serve as control plane `server`.

        Args:
            db: where members are kept.
            clock: time of day for rows, monotonic for silence.
            deployments: gives configurations and takes reports.
            store_sidecar: keeps what sidecars counted.
            server: unique per start of a control plane.
            terms: per kind of member.
        """
        self._db = db
        self._clock = clock
        self._deployments = deployments
        self._store_sidecar = store_sidecar
        self._terms = terms
        self._sessions: dict[str, Session] = {}
        self._nodes: dict[str, Session] = {}
        self._by_replica: dict[str, Session] = {}
        self._fresh: dict[str, Session] = {}
        self._connections = 0
        self._bindings_seen = 0
        self._push_now = asyncio.Event()
        self._presence = Presence(db, server, deployments)
        self._started = asyncio.Event()
        self._epoch_value = 0

    def __len__(self) -> int:
        """Return how many streams are open here."""
        return len(self._sessions)

    async def epoch(self) -> int:
        """Return the fence of this start of the control plane, once it is known."""
        await self._started.wait()
        return self._epoch_value

    # Streams

    def terms(self, kind: MemberKind) -> Terms:
        """Return how often a member of a kind must be heard."""
        return self._terms[kind]

    def open(self, hello: Hello) -> Session:
        """Take a new stream; an older one of the same instance ends ABORTED."""
        self._connections += 1
        session = Session(hello, self._connections, self._clock.now(), self._clock.monotonic())
        older = self._sessions.get(hello.instance)
        if older is not None:
            older.end(Aborted(f"another stream of {hello.instance} took over", reason="TAKEN_OVER", retry_after_s=None))
        self._sessions[hello.instance] = session
        if hello.kind is MemberKind.SIDECAR:
            self._by_replica.update(dict.fromkeys(hello.replicas, session))
        else:
            self._nodes[hello.instance] = session
        self._fresh[hello.instance] = session
        self._push_now.set()
        self._presence.put(self._member(session, LinkState.CONNECTED))
        return session

    def close(self, session: Session) -> None:
        """Let go of a stream that has ended; a newer one of the same instance stays."""
        if self._sessions.get(session.instance) is not session:
            return
        del self._sessions[session.instance]
        self._nodes.pop(session.instance, None)
        self._fresh.pop(session.instance, None)
        for replica in session.replicas:
            if self._by_replica.get(replica) is session:
                del self._by_replica[replica]
        self._presence.put(self._member(session, LinkState.UNKNOWN))

    def _member(self, session: Session, link: LinkState) -> Member:
        hello, lease_s = session.hello, self._terms[session.hello.kind].lease_s
        return Member(
            hello.instance,
            hello.kind,
            link,
            hello.incarnation,
            hello.program_version,
            hello.host,
            session.replicas,
            self._presence.server,
            session.connection,
            session.seen,
            session.opened,
            None if link is LinkState.CONNECTED else session.seen + timedelta(seconds=lease_s),
            session.acked_version,
            session.config_error,
        )

    def heard(self, session: Session) -> None:
        """Note a sign of life."""
        session.heard = self._clock.monotonic()
        session.seen = self._clock.now()

    def acknowledged(self, session: Session, version: int, nonce: str, error: str) -> None:
        """Note that a configuration was taken, or refused with `error`; the last good one stays in force then."""
        if nonce != f"{session.connection}-{version}":
            return
        if error:
            log.warning("%s refused configuration %d: %s", session.instance, version, error)
            session.config_error = error
        else:
            session.acked_version, session.config_error = version, ""
        # Thousands acknowledge one change together; while they do, the writer has better things to do.
        self._presence.put(self._member(session, LinkState.CONNECTED), urgent=False)

    def command(self, instance: str, kind: str, subject: str = "") -> str:
        """Have a member that is connected here do something once; return the command's id.

        Args:
            instance: the member.
            kind: `flush`: publish what is spooled; `restart_replica`: replace a replica.
            subject: what it is about, such as a replica's id.

        Raises:
            NotFound: the member is not connected here.
        """
        session = self._sessions.get(instance)
        if session is None:
            raise NotFound(f"{instance} is not connected to this control plane", reason="MEMBER_NOT_CONNECTED")
        session.commands += 1
        command_id = f"{session.connection}-{session.commands}"
        expires = self._clock.now() + timedelta(seconds=COMMAND_EXPIRES_S)
        session.command(Command(command_id, session.commands, expires, kind, subject))
        return command_id

    async def apply_node_reports(self, session: Session) -> None:
        """Take in the newest report of a node whenever there is one; runs until cancelled."""
        while True:
            await session.reported.wait()
            session.reported.clear()
            report, session.node_report = session.node_report, None
            if report is None:
                continue

            def apply(tx: Tx, report: NodeReport = report) -> None:
                self._deployments().apply_node_state(tx, session.instance, report)

            try:
                await self._db.write(apply)
            except Exception:
                log.exception("the state of node %s could not be taken in; its next one will be", session.instance)
                await asyncio.sleep(0.2)

    # Background

    async def run(self) -> None:
        """Push, watch and store until cancelled."""
        try:
            self._epoch_value, self._bindings_seen = await self._presence.begin()
            self._started.set()
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._presence.run(), name="fleet-presence")
                tasks.create_task(self._keep_pushing(), name="fleet-push")
                tasks.create_task(self._watch_silence(), name="fleet-silence")
                tasks.create_task(self._keep_captures(), name="fleet-captures")
        finally:
            await asyncio.shield(self._presence.end())

    async def _watch_silence(self) -> None:
        while True:
            await asyncio.sleep(WATCH_EVERY_S)
            now = self._clock.monotonic()
            for session in list(self._sessions.values()):
                lease_s = self._terms[session.hello.kind].lease_s
                if now - session.heard > lease_s:
                    text = f"{session.instance} was silent for {lease_s:g} s: its lease is over; connect again"
                    session.end(DeadlineExceeded(text, reason="LEASE_OVER"))

    async def _keep_captures(self) -> None:
        while True:
            await asyncio.sleep(CAPTURE_EVERY_S)
            newest: dict[str, SidecarReplica] = {}
            for session in self._sessions.values():
                report, session.sidecar_report = session.sidecar_report, None
                newest.update({r.replica: r for r in report or () if r.replica in session.replicas})
            if not newest:
                continue
            try:
                await self._db.write(lambda tx, newest=newest: self._store_sidecar(tx, newest))  # type: ignore[misc]
            except Exception:
                log.exception("what sidecars counted could not be stored; their next reports will be")

    async def _keep_pushing(self) -> None:
        with self._db.wakes.subscribe(FLEET_TOPIC) as wakes:
            woken = asyncio.create_task(wakes.wait(SWEEP_S))
            try:
                while True:
                    asked = asyncio.create_task(self._push_now.wait())
                    await asyncio.wait({woken, asked}, return_when=asyncio.FIRST_COMPLETED)
                    asked.cancel()
                    if woken.done():
                        woken = asyncio.create_task(wakes.wait(SWEEP_S))
                    else:
                        # Members that come together are answered together; a change of configuration does not wait.
                        await asyncio.sleep(GATHER_S)
                    self._push_now.clear()
                    try:
                        await self._push()
                    except Exception:
                        log.exception("configuration could not be pushed; it is tried again")
                        await asyncio.sleep(0.2)
            finally:
                woken.cancel()

    async def _push(self) -> None:
        """Send every member what changed for it since its last configuration."""
        fresh, self._fresh = self._fresh, {}
        try:
            nodes = {s.instance: s.sent_version for s in self._nodes.values()}
            new = {s.instance: s.hello for s in fresh.values() if s.hello.kind is MemberKind.SIDECAR}
            # The dictionary itself: copying it for each of thousands that connect at once would cost their square.
            plan = _Plan(nodes, new, self._by_replica, self._sessions, self._bindings_seen, frozenset(fresh))
            found = await self._db.read(lambda tx: _collect(tx, self._deployments(), plan))
        except BaseException:
            self._fresh = fresh | self._fresh
            raise
        self._bindings_seen = found.bindings_seen
        for instance, config in found.nodes.items():
            if (session := self._sessions.get(instance)) is not None:
                session.configure(config.of(session))
        self._push_sidecars(found, fresh)

    def _push_sidecars(self, found: _Found, fresh: Mapping[str, Session]) -> None:
        sessions = {s.instance: s for s in fresh.values() if s.hello.kind is MemberKind.SIDECAR}
        moved = self._adopt(found.adopted)
        sessions |= moved
        for replica in found.changed:
            if (session := self._by_replica.get(replica)) is not None:
                sessions[session.instance] = session
        for session in sessions.values():
            version = max((found.versions.get(r, 0) for r in session.replicas), default=0)
            if session.instance in moved and session.sent_version:
                # What it lost has no version any more, but the change must have one.
                version = max(version, found.bindings_seen)
            if version and version == session.hello.config_version and session.sent_version == 0:
                # It holds this very configuration from before.
                session.sent_version = session.acked_version = version
                continue
            bound = [found.bindings[r] for r in session.replicas if r in found.bindings]
            bindings = tuple(governing(bound, lambda b: b.served_as, lambda b: (b.stage.rank, b.number)))
            session.configure(Configuration(version, f"{session.connection}-{version}", None, bindings))

    def _adopt(self, adopted: Mapping[str, Sequence[str]]) -> dict[str, Session]:
        """Give sidecars the replicas that they were attached to; return those whose replicas changed."""
        changed = {}
        for instance, replicas in adopted.items():
            session = self._sessions.get(instance)
            mine = tuple(r for r in replicas if session is not None and r not in session.hello.replicas)
            if session is None or mine == session.adopted:
                continue
            for replica in session.adopted:
                if self._by_replica.get(replica) is session:
                    del self._by_replica[replica]
            session.adopted = mine
            self._by_replica.update(dict.fromkeys(mine, session))
            self._presence.put(self._member(session, LinkState.CONNECTED), urgent=False)
            changed[instance] = session
        return changed

    def members(self, tx: Tx, kind: MemberKind | None = None) -> list[Member]:
        """Return the members as they stand; those connected here with what is not in the database yet."""
        stored = {m.instance: m for m in rows.members(tx.conn, kind)}
        for session in list(self._sessions.values()):
            if kind is None or session.hello.kind is kind:
                stored[session.instance] = self._member(session, LinkState.CONNECTED)
        return [stored[i] for i in sorted(stored)]

    def say_goodbye(self, reconnect_after_s: float) -> None:
        """Ask every member to connect again."""
        for session in self._sessions.values():
            session.goodbye(reconnect_after_s)


@dataclass(frozen=True, slots=True)
class _Plan:
    """What to look for: nodes with the versions they were sent, new sidecars, replicas bound and members open here."""

    nodes: Mapping[str, int]
    new: Mapping[str, Hello]
    bound: Container[str]
    open: Container[str]
    after: int
    fresh: frozenset[str]


@dataclass(frozen=True, slots=True)
class _Unaddressed:
    """A configuration before it is one stream's."""

    configuration: Configuration

    def of(self, session: Session) -> Configuration:
        """Return it with the nonce of a stream."""
        c = self.configuration
        return Configuration(c.version, f"{session.connection}-{c.version}", c.node, c.bindings)


@dataclass(frozen=True, slots=True)
class _Found:
    nodes: Mapping[str, _Unaddressed]
    adopted: Mapping[str, Sequence[str]]
    changed: Sequence[str]
    versions: Mapping[str, int]
    bindings: Mapping[str, ReplicaBinding]
    bindings_seen: int


def _collect(tx: Tx, deployments: NodeSide, plan: _Plan) -> _Found:
    """Read on one snapshot what must be sent."""
    nodes = {}
    for instance, sent in plan.nodes.items():
        facts = rows.node(tx.conn, instance)
        if instance in plan.fresh or (facts is not None and facts.config_version > sent):
            config = deployments.node_config(tx, instance)
            nodes[instance] = _Unaddressed(Configuration(config.version, "", config))
    news = rows.bindings_after(tx.conn, plan.after)
    changed = [n.replica for n in news if n.replica in plan.bound]
    adopted = _adopted(tx, plan, [n.replica for n in news])
    wanted = {r for h in plan.new.values() for r in h.replicas} | set(changed)
    wanted.update(*adopted.values())
    return _Found(
        nodes,
        adopted,
        changed,
        rows.binding_versions(tx.conn, wanted),
        deployments.bindings(tx, wanted),
        news[-1].version if news else plan.after,
    )


def _adopted(tx: Tx, plan: _Plan, news: Sequence[str]) -> dict[str, list[str]]:
    """Return the replicas of the attached sidecars that are new here, or one of whose replicas changed."""
    touched = replica_rows.replicas_by_id(tx.conn, news)
    instances = {r.instance for r in touched.values() if r.instance and r.instance in plan.open}
    found: dict[str, list[str]] = {instance: [] for instance in instances}
    return found | replica_rows.of_instances(tx.conn, instances | plan.new.keys())
