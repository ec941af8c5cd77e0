"""Filters and pages against real tables, with a plain Python oracle; on SQLite and PostgreSQL."""

from __future__ import annotations

import operator
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Boolean, Column, Float, ForeignKey, Integer, MetaData, String, Table, insert, select

from pilotfish.errors import InvalidArgument
from pilotfish_control_plane.clock import SystemClock
from pilotfish_control_plane.storage.database import Database
from pilotfish_control_plane.storage.filter_sql import Kind, MapField, Scalar
from pilotfish_control_plane.storage.paging import Listing, Page, PageRequest, fetch_page
from pilotfish_control_plane.storage.types import UtcDateTime

from ..conftest import ENGINES, DatabaseFactory

pytestmark = pytest.mark.timeout(120)

own = MetaData()
things = Table(
    "things",
    own,
    Column("id", Integer, primary_key=True),
    Column("name", String(63), nullable=False),
    Column("label", String(63)),
    Column("status", Integer, nullable=False),
    Column("score", Float),
    Column("enabled", Boolean, nullable=False),
    Column("created", UtcDateTime, nullable=False),
)
thing_tags = Table(
    "thing_tags",
    own,
    Column("thing", ForeignKey("things.id"), primary_key=True),
    Column("key", String(63), primary_key=True),
    Column("value", String(63), nullable=False),
)
STATUSES = {"staging": 1, "production": 2}
LISTING = Listing(
    key=Scalar(things.c.id, Kind.NUMBER),
    fields={
        "name": Scalar(things.c.name),
        "label": Scalar(things.c.label),
        "status": Scalar(things.c.status, choices=STATUSES),
        "score": Scalar(things.c.score, Kind.NUMBER),
        "enabled": Scalar(things.c.enabled, Kind.BOOL),
        "created": Scalar(things.c.created, Kind.TIME),
        "tags": MapField(things.c.id, thing_tags.c.thing, thing_tags.c.key, thing_tags.c.value),
    },
    orders={
        "name": Scalar(things.c.name),
        "created": Scalar(things.c.created, Kind.TIME),
        "status": Scalar(things.c.status, Kind.NUMBER),
    },
    default_order="created desc",
)


@dataclass(frozen=True)
class Thing:
    id: int
    name: str
    label: str | None
    status: int
    score: float | None
    enabled: bool
    created: datetime
    tags: tuple[tuple[str, str], ...]


def make_things(rng: random.Random, count: int) -> list[Thing]:
    return [
        Thing(
            i,
            rng.choice(["alpha", "Alpha", "al_ha", "al%ha", "beta", "b", "", "é"]),
            rng.choice([None, "x", "y"]),
            rng.choice([1, 2]),
            rng.choice([None, -1.0, 0.0, 0.5, 2.0]),
            rng.random() < 0.5,
            datetime(2030, 1, 1, tzinfo=UTC) + timedelta(hours=rng.randrange(5)),
            tuple((k, rng.choice("pq")) for k in ("team", "a.b") if rng.random() < 0.6),
        )
        for i in range(1, count + 1)
    ]


def store(database: Database, all_things: list[Thing]) -> None:
    def write(tx: Any) -> None:
        for thing in all_things:
            fields = {c.name: getattr(thing, c.name) for c in things.columns}
            tx.conn.execute(insert(things).values(**fields))
            for key, value in thing.tags:
                tx.conn.execute(insert(thing_tags).values(thing=thing.id, key=key, value=value))

    database.write_sync(write)


def fetch(database: Database, request: PageRequest) -> Page[int]:
    return database.read_sync(
        lambda tx: fetch_page(tx.conn, select(things.c.id), LISTING, request, lambda row: int(row.id))
    )


@pytest.fixture(scope="module", params=ENGINES)
def filled(request: Any, databases: DatabaseFactory, tmp_path_factory: Any) -> Iterator[tuple[Database, list[Thing]]]:
    directory = tmp_path_factory.mktemp("lists")
    database = Database.open(databases.url(request.param, directory), SystemClock(), migrate=False)
    own.create_all(database.engine)
    all_things = make_things(random.Random(7), 60)
    store(database, all_things)
    yield database, all_things
    database.close()


Check = Callable[[Thing], bool]
_OPERATORS: dict[str, Callable[[Any, Any], bool]] = {
    "=": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


def compared(read: Callable[[Thing], Any], sign: str, value: Any) -> Check:
    return lambda t: read(t) is not None and _OPERATORS[sign](read(t), value)


def _number(sign: str, value: float) -> tuple[str, Check]:
    return f"score {sign} {value}", compared(lambda t: t.score, sign, value)


def _label(sign: str, value: str) -> tuple[str, Check]:
    return f'label {sign} "{value}"', compared(lambda t: t.label, sign, value)


def _tag(key: str, sign: str, value: str) -> tuple[str, Check]:
    return f'tags."{key}" {sign} "{value}"', compared(lambda t: dict(t.tags).get(key), sign, value)


def _created(sign: str, hour: int) -> tuple[str, Check]:
    there = f"2030-01-01T{hour + 2:02}:00:00+02:00"
    return f'created {sign} "{there}"', compared(lambda t: t.created, sign, datetime(2030, 1, 1, hour, tzinfo=UTC))


equality, orders = st.sampled_from(["=", "!="]), st.sampled_from(list(_OPERATORS))
leaves: st.SearchStrategy[tuple[str, Check]] = st.one_of(
    st.builds(_number, orders, st.sampled_from([-1, 0, 0.5, 2.0])),
    st.builds(_label, equality, st.sampled_from("xyz")),
    st.builds(_tag, st.sampled_from(["team", "a.b", "none"]), equality, st.sampled_from("pq")),
    st.builds(_created, orders, st.integers(0, 4)),
    st.sampled_from(["al", "alpha", "al_", "al%", "A", "", "é"]).map(
        lambda p: (f'name : "{p}"', lambda t: t.name.startswith(p))
    ),
    st.lists(st.sampled_from(["staging", "PRODUCTION"]), min_size=1, max_size=2).map(
        lambda s: (
            "status IN (" + ", ".join(f'"{w}"' for w in s) + ")",
            lambda t: t.status in [STATUSES[w.lower()] for w in s],
        )
    ),
    st.booleans().map(lambda b: (f"enabled = {str(b).lower()}", lambda t: t.enabled is b)),
    st.sampled_from(["team", "none"]).map(lambda k: (f'tags : "{k}"', lambda t: k in dict(t.tags))),
)
filters = st.recursive(
    leaves,
    lambda inner: st.one_of(
        inner.map(lambda f: (f"NOT ({f[0]})", lambda t: not f[1](t))),
        st.tuples(inner, inner).map(lambda p: (f"({p[0][0]}) AND ({p[1][0]})", lambda t: p[0][1](t) and p[1][1](t))),
        st.tuples(inner, inner).map(lambda p: (f"({p[0][0]}) OR ({p[1][0]})", lambda t: p[0][1](t) or p[1][1](t))),
    ),
    max_leaves=6,
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(filters)
def test_a_filter_selects_what_the_oracle_selects(
    filled: tuple[Database, list[Thing]], generated: tuple[str, Check]
) -> None:
    database, all_things = filled
    text, check = generated
    found = fetch(database, PageRequest(page_size=1000, filter=text)).items
    assert sorted(found) == [t.id for t in all_things if check(t)], text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("size = 3", r"no field size; there are created, enabled, label, name, score, status, tags\.KEY \(column 1\)"),
        ("a.b = 3 AND name = 3", "no field a"),
        ('name = "x" AND name = 3', r"name is text, not 3 \(column 16\)"),
        ('score > "high"', 'score is a number, not "high"'),
        ("score = true", "score is a number, not true"),
        ('enabled = "yes"', "enabled is true or false"),
        ("enabled < true", "enabled has no order"),
        ('status = "gone"', 'status is one of production, staging, not "gone"'),
        ('status > "staging"', "status has no order"),
        ('created > "yesterday"', "created is a time such as"),
        ("created > 3", "created is a time such as"),
        ('created > "9999-12-31T23:59:59-23:00"', "created is a time such as"),
        ('tags = "x"', "tags is a map"),
        ('name.first = "x"', "name has no keys"),
        ('score : "x"', "for text only"),
    ],
)
def test_a_filter_that_does_not_fit_the_fields_is_refused_with_its_column(
    filled: tuple[Database, list[Thing]], text: str, message: str
) -> None:
    with pytest.raises(InvalidArgument, match=message):
        fetch(filled[0], PageRequest(filter=text))


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text(max_size=30))
def test_values_are_bound_and_never_become_sql(filled: tuple[Database, list[Thing]], value: str) -> None:
    database, all_things = filled
    quoted = value.replace("\\", "\\\\").replace('"', '\\"')
    if "\0" in value:
        with pytest.raises(InvalidArgument):
            fetch(database, PageRequest(filter=f'name = "{quoted}"'))
        return
    found = fetch(database, PageRequest(page_size=1000, filter=f'name = "{quoted}" OR tags."{quoted}" = "{quoted}"'))
    assert sorted(found.items) == [t.id for t in all_things if t.name == value]


def walk(database: Database, request: PageRequest, between: Callable[[], None] = lambda: None) -> list[int]:
    found: list[int] = []
    token = ""
    while True:
        page = fetch(database, PageRequest(request.page_size, token, request.filter, request.order_by, request.scope))
        assert len(page.items) <= request.page_size
        found.extend(page.items)
        token = page.next_page_token
        if not token:
            return found
        between()


@pytest.mark.parametrize(
    ("order_by", "key"),
    [
        ("", lambda t: (-t.created.timestamp(), -t.id)),
        ("created", lambda t: (t.created, t.id)),
        ("status desc, created asc", lambda t: (-t.status, t.created, t.id)),
        ("created, status desc", lambda t: (t.created, -t.status, -t.id)),
        ("status, created", lambda t: (t.status, t.created, t.id)),
    ],
)
@pytest.mark.parametrize("size", [1, 7, 60, 1000])
def test_pages_give_every_row_once_in_order(
    filled: tuple[Database, list[Thing]], order_by: str, key: Callable[[Thing], Any], size: int
) -> None:
    database, all_things = filled
    found = walk(database, PageRequest(page_size=size, order_by=order_by, filter="score >= 0"))
    wanted = [t for t in all_things if t.score is not None and t.score >= 0]
    assert found == [t.id for t in sorted(wanted, key=key)]


def test_rows_added_and_deleted_between_pages_neither_repeat_nor_hide_others(database: Database) -> None:
    own.create_all(database.engine)
    rng = random.Random(3)
    store(database, make_things(rng, 50))
    added = iter(range(1000, 2000))

    def between() -> None:
        def change(tx: Any) -> None:
            for hour in (0, 2, 4):
                row = make_things(rng, 1)[0]
                fields = {c.name: getattr(row, c.name) for c in things.columns}
                created = datetime(2030, 1, 1, hour, tzinfo=UTC)
                tx.conn.execute(insert(things).values(**{**fields, "id": next(added), "created": created}))
            doomed = select(things.c.id).where(things.c.id.in_([40, 41]))
            tx.conn.execute(thing_tags.delete().where(thing_tags.c.thing.in_(doomed)))
            tx.conn.execute(things.delete().where(things.c.id.in_([40, 41])))

        database.write_sync(change)

    found = walk(database, PageRequest(page_size=5), between)
    assert len(found) == len(set(found))
    assert set(range(1, 51)) - {40, 41} <= set(found)


def test_a_token_is_good_only_for_its_own_list(filled: tuple[Database, list[Thing]]) -> None:
    database, _ = filled
    token = fetch(database, PageRequest(page_size=3, filter="enabled = true", scope="a")).next_page_token
    fetch(database, PageRequest(page_size=9, page_token=token, filter="enabled = true", scope="a"))
    for other in [
        PageRequest(page_token=token, filter="enabled = false", scope="a"),
        PageRequest(page_token=token, filter="enabled = true", scope="b"),
        PageRequest(page_token=token, filter="enabled = true", scope="a", order_by="name"),
    ]:
        with pytest.raises(InvalidArgument, match="another list, filter or order"):
            fetch(database, other)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text(max_size=40) | st.binary(max_size=40).map(lambda b: __import__("base64").urlsafe_b64encode(b).decode()))
def test_a_foreign_token_is_refused_and_never_crashes(filled: tuple[Database, list[Thing]], token: str) -> None:
    if token:
        with pytest.raises(InvalidArgument, match="page_token"):
            fetch(filled[0], PageRequest(page_token=token))


def test_sizes_and_orders_out_of_range_are_refused_or_capped(filled: tuple[Database, list[Thing]]) -> None:
    database, _ = filled
    assert len(fetch(database, PageRequest()).items) == 50
    assert len(fetch(database, PageRequest(page_size=10**9)).items) == 60
    for request in [PageRequest(page_size=-1), PageRequest(order_by="score"), PageRequest(order_by="name up")]:
        with pytest.raises(InvalidArgument):
            fetch(database, request)
    with pytest.raises(InvalidArgument, match="each field once"):
        fetch(database, PageRequest(order_by="name, name desc"))
