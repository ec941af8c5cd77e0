"""Settings: where values come from, and which are refused."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest

from pilotfish.errors import InvalidArgument
from pilotfish_control_plane.settings import Settings, load


def test_a_flag_wins_over_the_environment_over_the_file_over_the_default(tmp_path: Path) -> None:
    (tmp_path / "pilotfish.toml").write_text("port = 1\nhttp_port = 2\ndrain_s = 3\nlog_level = 'debug'\n")
    settings = load(
        ["--port", "5"], {"PILOTFISH_HOME": str(tmp_path), "PILOTFISH_PORT": "6", "PILOTFISH_HTTP_PORT": "7"}
    )
    assert (settings.port, settings.http_port, settings.drain_s, settings.sweep_s) == (5, 7, 3.0, 5.0)
    assert (settings.log_level, settings.home) == ("debug", tmp_path)


def test_another_file_can_be_named(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text("authentication = false\n")
    assert not load(["--config", str(tmp_path / "a.toml"), "--home", str(tmp_path)], {}).authentication
    with pytest.raises(InvalidArgument, match=r"missing\.toml cannot be read"):
        load(["--config", str(tmp_path / "missing.toml")], {})


def test_the_home_is_the_xdg_data_directory_unless_set() -> None:
    assert load([], {"XDG_DATA_HOME": "/data"}).home == Path("/data/pilotfish")
    assert load([], {"HOME": "/home/ann"}).home == Path("/home/ann/.local/share/pilotfish")
    assert load([], {"HOME": "/home/ann"}).database_url == "sqlite:////home/ann/.local/share/pilotfish/pilotfish.db"


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.2", "example.org"])
def test_a_bind_that_others_can_reach_needs_tls_and_authentication(host: str) -> None:
    with pytest.raises(InvalidArgument) as refused:
        Settings(host=host, authentication=False)
    assert {v.reason for v in refused.value.violations} == {"BIND_WITHOUT_TLS", "BIND_WITHOUT_AUTHENTICATION"}
    assert "PILOTFISH_TLS_CERT" in str(refused.value)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.9", "::1", "[::1]", "localhost"])
def test_loopback_needs_neither(host: str) -> None:
    assert Settings(host=host, authentication=False).is_loopback


def test_a_public_bind_with_certificate_and_key_is_accepted(tmp_path: Path) -> None:
    for name in ("cert", "key"):
        (tmp_path / name).touch()
    Settings(host="0.0.0.0", tls_cert=str(tmp_path / "cert"), tls_key=str(tmp_path / "key"))


def test_all_problems_are_told_at_once(tmp_path: Path) -> None:
    (tmp_path / "pilotfish.toml").write_text("prot = 1\nport = 'x'\nhttp_port = true\n")
    with pytest.raises(InvalidArgument) as refused:
        load([], {"PILOTFISH_HOME": str(tmp_path), "PILOTFISH_AUTHENTICATION": "maybe"})
    assert [v.field for v in refused.value.violations] == ["prot", "port", "http_port", "authentication"]
    with pytest.raises(InvalidArgument) as refused:
        Settings(port=70000, drain_s=-1, log_level="loud", tls_cert="/none", lease_s=0)
    assert {v.field for v in refused.value.violations} == {"port", "drain_s", "log_level", "tls_cert", "lease_s"}


def test_an_unknown_flag_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        load(["--prot", "1"], {})
    assert "--prot" in capsys.readouterr().err


def test_the_docstring_lists_every_option_and_no_other() -> None:
    documented = re.findall(r"^        (\w+): ", Settings.__doc__ or "", re.M)
    assert documented == [f.name for f in dataclasses.fields(Settings)]
