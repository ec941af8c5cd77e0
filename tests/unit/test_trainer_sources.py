"""Sources are read from real files, real databases and a real HTTP server, and nothing else is reached."""

from __future__ import annotations

import json
import os
import sqlite3
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from pilotfish_control_plane.trainer.addresses import AddressRefused, checked_addresses
from pilotfish_control_plane.trainer.api_source import HttpReader, read_api
from pilotfish_control_plane.trainer.database_source import read_database
from pilotfish_control_plane.trainer.file_source import SourceError, read_files, read_prediction_log
from pilotfish_control_plane.trainer.outcome import Reason, TrainingFailed
from pilotfish_control_plane.trainer.sources import load_sources
from pilotfish_control_plane.trainer.spec import (
    ApiSource,
    DatabaseSource,
    FileSource,
    Pagination,
    PredictionLogSource,
)

from .trainer_http import Answer, Seen, serving

LOOPBACK = ("127.0.0.0/8",)
ROWS = [{"id": i, "x": i / 4, "name": f"n{i}"} for i in range(10)]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "data").mkdir()
    return tmp_path / "data"


# Files


@pytest.mark.parametrize("kind", ["csv", "parquet", "json", "jsonl"])
def test_every_format_gives_the_same_rows(root: Path, kind: str) -> None:
    frame = pd.DataFrame(ROWS)
    path = root / f"rows.{kind}"
    if kind == "csv":
        frame.to_csv(path, index=False)
    elif kind == "parquet":
        frame.to_parquet(path)
    elif kind == "json":
        path.write_text(json.dumps(ROWS))
    else:
        path.write_text("\n".join(json.dumps(row) for row in ROWS) + "\n")
    found = read_files(FileSource("a", (path.name,)), [str(root)])
    assert found.to_dict("records") == ROWS


def test_delimiter_and_encoding_are_obeyed(root: Path) -> None:
    (root / "rows.txt").write_bytes("stadt;n\nZürich;1\n".encode("latin-1"))
    source = FileSource("a", ("rows.txt",), "csv", delimiter=";", encoding="latin-1")
    assert read_files(source, [str(root)]).to_dict("records") == [{"stadt": "Zürich", "n": 1}]


def test_a_directory_of_parquet_parts_is_one_source(root: Path) -> None:
    (root / "parts").mkdir()
    pd.DataFrame(ROWS[:4]).to_parquet(root / "parts" / "b.parquet")
    pd.DataFrame(ROWS[4:]).to_parquet(root / "parts" / "a.parquet")
    (root / "parts" / ".c.parquet").write_bytes(b"half written")
    found = read_prediction_log(PredictionLogSource("log", "parts"), [str(root)])
    assert sorted(found["id"]) == list(range(10))


@pytest.mark.parametrize("path", ["../secret.csv", "sub/../../secret.csv", "{outside}", "/etc/passwd", "x\0.csv"])
def test_a_path_that_leads_outside_is_refused(root: Path, path: str) -> None:
    outside = root.parent / "secret.csv"
    outside.write_text("a\n1\n")
    with pytest.raises(SourceError):
        read_files(FileSource("a", (path.format(outside=outside),), "csv"), [str(root)])


@pytest.mark.parametrize("through", ["file", "directory"])
def test_a_link_that_leads_outside_is_refused(root: Path, through: str) -> None:
    secret = root.parent / "private"
    secret.mkdir()
    (secret / "s.csv").write_text("a\n1\n")
    if through == "file":
        (root / "s.csv").symlink_to(secret / "s.csv")
    else:
        (root / "link").symlink_to(secret)
    name = "s.csv" if through == "file" else "link/s.csv"
    with pytest.raises(SourceError, match="does not lie under an allowed directory"):
        read_files(FileSource("a", (name,)), [str(root)])


def test_a_link_inside_an_allowed_directory_is_followed(root: Path) -> None:
    (root / "real.csv").write_text("a\n1\n")
    (root / "latest.csv").symlink_to(root / "real.csv")
    assert len(read_files(FileSource("a", ("latest.csv",)), [str(root)])) == 1


def test_a_sibling_whose_name_begins_like_a_root_is_outside(root: Path) -> None:
    sibling = root.parent / "data2"
    sibling.mkdir()
    (sibling / "s.csv").write_text("a\n1\n")
    with pytest.raises(SourceError, match="does not lie under"):
        read_files(FileSource("a", (str(sibling / "s.csv"),)), [str(root)])


def test_outside_it_is_not_told_whether_a_file_exists(root: Path) -> None:
    (root.parent / "there.csv").write_text("a\n1\n")
    said = []
    for name in ("there.csv", "gone.csv"):
        with pytest.raises(SourceError) as caught:
            read_files(FileSource("a", (str(root.parent / name),)), [str(root)])
        said.append(str(caught.value).replace(name, "X"))
    assert said[0] == said[1]


def test_a_pipe_does_not_hang_the_job(root: Path) -> None:
    os.mkfifo(root / "pipe.csv")
    with pytest.raises(SourceError, match="not a regular file"):
        read_files(FileSource("a", ("pipe.csv",)), [str(root)])


def test_without_an_allowed_directory_no_file_is_read() -> None:
    with pytest.raises(SourceError, match="no directory is allowed"):
        read_files(FileSource("a", ("x.csv",)), [])


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.csv", b"a,b\n1,2\n1,2,3,4\n", "no readable csv"),
        ("a.csv", b"", "no readable csv"),
        ("a.parquet", b"PAR1 not really", "no readable parquet"),
        ("a.json", b'{"a": 1}', "array of objects"),
        ("a.json", b'[{"a": {"b": 1}}]', "nested dict"),
        ("a.jsonl", b'{"a": 1}\n{"a": \n', "line 2 is not JSON"),
        ("a.xyz", b"a", "the format of 'a.xyz' is unknown"),
        ("gone.csv", None, "there is no file"),
    ],
)
def test_a_file_that_is_not_what_it_should_be_is_named(root: Path, name: str, content: bytes | None, said: str) -> None:
    if content is not None:
        (root / name).write_bytes(content)
    with pytest.raises(SourceError, match=said):
        read_files(FileSource("a", (name,)), [str(root)])


def test_more_rows_than_allowed_fail_instead_of_being_cut(root: Path) -> None:
    pd.DataFrame(ROWS).to_csv(root / "a.csv", index=False)
    assert len(read_files(FileSource("a", ("a.csv",), max_rows=10), [str(root)])) == 10
    with pytest.raises(SourceError, match="max_rows is 9"):
        read_files(FileSource("a", ("a.csv",), max_rows=9), [str(root)])


# Databases


@pytest.fixture
def sqlite(root: Path) -> str:
    connection = sqlite3.connect(root / "rows.db")
    pd.DataFrame(ROWS).to_sql("items", connection, index=False)
    connection.commit()
    connection.close()
    return f"sqlite:///{root}/rows.db"


def test_a_query_with_bound_parameters_is_read_from_sqlite(sqlite: str, root: Path) -> None:
    source = DatabaseSource("a", sqlite, "SELECT id, name FROM items WHERE x >= :low ORDER BY id;", {"low": 2.0})
    assert read_database(source, [str(root)]).to_dict("records") == [{"id": i, "name": f"n{i}"} for i in (8, 9)]


@pytest.mark.parametrize(
    "query",
    [
        "DELETE FROM items",
        "DROP TABLE items",
        "PRAGMA writable_schema=1",
        "ATTACH DATABASE '/tmp/x.db' AS y",
        "SELECT 1; DROP TABLE items",
        "-- a comment\nUPDATE items SET x = 0",
        "WITH q AS (SELECT 1) DELETE FROM items",
        "SELECT load_extension('/tmp/evil.so')",
        "SELECT * FROM pragma_database_list",
    ],
)
def test_a_query_that_would_change_anything_is_refused_and_changes_nothing(sqlite: str, root: Path, query: str) -> None:
    with pytest.raises(SourceError):
        read_database(DatabaseSource("a", sqlite, query), [str(root)])
    assert len(read_database(DatabaseSource("a", sqlite, "SELECT * FROM items"), [str(root)])) == 10


def test_a_sqlite_file_must_lie_under_an_allowed_directory(sqlite: str, root: Path, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    with pytest.raises(SourceError, match="does not lie under"):
        read_database(DatabaseSource("a", sqlite, "SELECT 1 AS a"), [str(tmp_path / "other")])
    for connection in ("sqlite://", "sqlite:///:memory:", f"sqlite:///file:{root}/rows.db?uri=true"):
        with pytest.raises(SourceError, match="must name a SQLite file"):
            read_database(DatabaseSource("a", connection, "SELECT 1 AS a"), [str(root)])


@pytest.mark.parametrize(
    ("connection", "said"),
    [
        ("mysql://u:hunter2@h/db", "allowed: postgresql, postgresql\\+psycopg, sqlite"),
        ("nonsense hunter2", "no database URL"),
        ("postgresql://u:hunter2@127.0.0.1:1/db", "u:\\*\\*\\*@127.0.0.1:1/db answered"),
    ],
)
def test_a_connection_that_does_not_work_never_shows_its_password(connection: str, said: str) -> None:
    with pytest.raises(SourceError, match=said) as caught:
        read_database(DatabaseSource("a", connection, "SELECT 1 AS a"), [])
    assert "hunter2" not in str(caught.value)


def test_two_columns_of_one_name_are_refused(sqlite: str, root: Path) -> None:
    with pytest.raises(SourceError, match="returns column id more than once"):
        read_database(DatabaseSource("a", sqlite, "SELECT id, id FROM items"), [str(root)])


def test_a_query_with_too_many_rows_fails(sqlite: str, root: Path) -> None:
    with pytest.raises(SourceError, match="max_rows = 9"):
        read_database(DatabaseSource("a", sqlite, "SELECT * FROM items", max_rows=9), [str(root)])


# APIs


def reader(**settings: Any) -> HttpReader:
    return HttpReader(**{"allow_private": LOOPBACK, "timeout_s": 5.0, "sleep": lambda _: None, **settings})


def test_a_whole_answer_is_read_with_parameters_and_headers() -> None:
    with serving(lambda request: Answer({"data": {"rows": ROWS}})) as api:
        source = ApiSource(
            "a", f"{api.url}/v1/rows?fixed=1", {"since": "2026"}, {"X-Key": "k"}, records_path="data.rows"
        )
        assert read_api(source, reader()).to_dict("records") == ROWS
    (request,) = api.seen
    assert (request.path, request.query) == ("/v1/rows", {"fixed": "1", "since": "2026"})
    assert request.headers["x-key"] == "k"


def test_numbered_pages_are_read_until_one_is_not_full() -> None:
    def answer(request: Seen) -> Answer:
        start = (int(request.query["page"]) - 1) * int(request.query["per"])
        return Answer(ROWS[start : start + int(request.query["per"])])

    with serving(answer) as api:
        paging = Pagination("page", "page", "per", 4)
        assert list(read_api(ApiSource("a", api.url, pagination=paging), reader())["id"]) == list(range(10))
    assert [request.query["page"] for request in api.seen] == ["1", "2", "3"]


def test_offsets_count_rows() -> None:
    with serving(lambda request: Answer(ROWS[int(request.query["skip"]) :][:5])) as api:
        paging = Pagination("offset", "skip", "", 5)
        assert len(read_api(ApiSource("a", api.url, pagination=paging), reader())) == 10
    assert [request.query["skip"] for request in api.seen] == ["0", "5", "10"]


def test_a_cursor_is_followed_to_its_end() -> None:
    def answer(request: Seen) -> Answer:
        at = int(request.query.get("after", "0"))
        following = {"cursor": str(at + 3)} if at + 3 < 10 else {"cursor": None}
        return Answer({"items": ROWS[at : at + 3], "meta": following})

    with serving(answer) as api:
        paging = Pagination("cursor", "after", cursor_path="meta.cursor")
        source = ApiSource("a", api.url, records_path="items", pagination=paging)
        assert list(read_api(source, reader())["id"]) == list(range(10))


def test_a_cursor_that_repeats_ends_the_job_instead_of_running_for_ever() -> None:
    with serving(lambda _: Answer({"items": ROWS, "next": "again"})) as api:
        paging = Pagination("cursor", "after", cursor_path="next")
        with pytest.raises(SourceError, match="'again' twice"):
            read_api(ApiSource("a", api.url, records_path="items", pagination=paging), reader())


def test_pages_without_end_fail_at_the_limit() -> None:
    with serving(lambda _: Answer(ROWS)) as api:
        paging = Pagination("page", "page", max_pages=3)
        with pytest.raises(SourceError, match="max_pages = 3"):
            read_api(ApiSource("a", api.url, pagination=paging), reader())
        with pytest.raises(SourceError, match="max_rows = 15"):
            read_api(ApiSource("a", api.url, pagination=Pagination("page", "page"), max_rows=15), reader())


def test_a_busy_server_is_asked_again_after_the_time_it_names() -> None:
    waits: list[float] = []
    answers = [Answer({}, 429, {"Retry-After": "7"}), Answer({}, 503), Answer(ROWS)]
    with serving(lambda _: answers.pop(0)) as api:
        assert len(read_api(ApiSource("a", api.url), reader(sleep=waits.append))) == 10
    assert waits == [7.0, 0.5]


def test_a_server_that_keeps_failing_is_given_up() -> None:
    with serving(lambda _: Answer({}, 500)) as api, pytest.raises(SourceError, match=r"answered 500 \(4 attempts\)"):
        read_api(ApiSource("a", api.url), reader())
    assert len(api.seen) == 4


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (Answer({"error": "no such table"}, 404), "answered 404: .*no such table"),
        (Answer(b"<html>"), "answered no JSON"),
        (Answer({"rows": ROWS}), "set records_path"),
        (Answer([1, 2]), "record 0 .* must be an object"),
    ],
)
def test_an_answer_of_another_shape_is_explained(answer: Answer, said: str) -> None:
    with serving(lambda _: answer) as api, pytest.raises(SourceError, match=said):
        read_api(ApiSource("a", api.url), reader())


def test_a_private_address_is_refused_unless_it_is_named() -> None:
    with serving(lambda _: Answer(ROWS)) as api:
        with pytest.raises(SourceError, match=r"127\.0\.0\.1, which is not a public address"):
            read_api(ApiSource("a", api.url), reader(allow_private=()))
        with pytest.raises(SourceError, match="not a public address"):
            read_api(ApiSource("a", f"http://localhost:{api.port}"), reader(allow_private=("10.0.0.0/8",)))
    assert api.seen == []


@pytest.mark.parametrize(
    "host",
    [
        "169.254.169.254",
        "10.1.2.3",
        "[::1]",
        "[::ffff:127.0.0.1]",
        "[64:ff9b::7f00:1]",
        "[2002:7f00:1::]",
        "0.0.0.0",
        "224.0.0.1",
        "100.64.0.1",
        "2130706433",
        "[fe80::1%25lo]",
    ],
)
def test_no_spelling_of_a_private_address_gets_through(host: str) -> None:
    with pytest.raises(SourceError, match=r"refused|no http"):
        reader(allow_private=()).get_json(f"http://{host}/", {})


def test_a_public_address_is_let_through_and_an_unknown_name_is_not() -> None:
    assert checked_addresses("93.184.216.34", 80, ()) == ["93.184.216.34"]
    # One address in two spellings is one address, for what is refused and for what is allowed.
    assert checked_addresses("::ffff:127.0.0.1", 80, LOOPBACK) == ["::ffff:127.0.0.1"]
    with pytest.raises(AddressRefused, match="has no address"):
        checked_addresses("nowhere.invalid", 80, ())


def test_a_redirect_to_a_private_address_is_refused() -> None:
    target = "http://169.254.169.254/latest/meta-data"
    with (
        serving(lambda _: Answer({}, 302, {"Location": target})) as api,
        pytest.raises(SourceError, match=r"169\.254\.169\.254"),
    ):
        read_api(ApiSource("a", api.url), reader())
    with (
        serving(lambda _: Answer({}, 302, {"Location": "file:///etc/passwd"})) as api,
        pytest.raises(SourceError, match="no http or https URL"),
    ):
        read_api(ApiSource("a", api.url), reader())


def test_a_redirect_to_another_host_does_not_get_the_headers() -> None:
    with (
        serving(lambda _: Answer(ROWS)) as second,
        serving(lambda _: Answer({}, 307, {"Location": f"{second.url}/moved"})) as first,
    ):
        source = ApiSource("a", first.url, headers={"Authorization": "Bearer s3cret"})
        assert len(read_api(source, reader())) == 10
    assert first.seen[0].headers["authorization"] == "Bearer s3cret"
    assert "authorization" not in second.seen[0].headers
    assert second.seen[0].path == "/moved"


def test_redirects_in_a_circle_end() -> None:
    with (
        serving(lambda _: Answer({}, 302, {"Location": "/again"})) as api,
        pytest.raises(SourceError, match="more than 3 times"),
    ):
        read_api(ApiSource("a", api.url), reader())


@pytest.mark.parametrize("endpoint", ["ftp://example.org/x", "example.org", "http://u:p@example.org/", "http://"])
def test_an_endpoint_that_is_no_plain_url_is_refused(endpoint: str) -> None:
    with pytest.raises(SourceError):
        read_api(ApiSource("a", endpoint), reader())


def test_headers_cannot_carry_a_second_request() -> None:
    with serving(lambda _: Answer(ROWS)) as api, pytest.raises(SourceError, match="cannot be asked"):
        read_api(ApiSource("a", api.url, headers={"X": "a\r\nHost: other"}), reader())
    assert api.seen == []


# All together


def test_the_problems_of_all_sources_are_told_together(root: Path, sqlite: str) -> None:
    (root / "empty.csv").write_text("a,b\n")
    sources = (
        FileSource("first", ("gone.csv",)),
        DatabaseSource("second", sqlite, "SELECT * FROM absent_rows"),
        FileSource("third", ("empty.csv",)),
        DatabaseSource("good", sqlite, "SELECT * FROM items"),
    )
    done: list[tuple[str, int]] = []
    with pytest.raises(TrainingFailed) as caught:
        load_sources(sources, [str(root)], (), lambda name, rows: done.append((name, rows)))
    assert caught.value.reason is Reason.SOURCE_FAILED
    assert [issue.column for issue in caught.value.issues] == [f"data_sources[{i}]" for i in range(3)]
    messages = [issue.message for issue in caught.value.issues]
    assert "there is no file" in messages[0]
    assert "no such table: absent_rows" in messages[1]
    assert "it has no rows" in messages[2]
    assert done == [("good", 10)]
