"""The settings of the control plane.

Owns the one list of options, where each value comes from, and the refusal of unsafe combinations. It reads
flags, environment and file when `load` is called, and nothing afterwards.
"""

from __future__ import annotations

import argparse
import dataclasses
import ipaddress
import os
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_type_hints

from pilotfish.errors import InvalidArgument, Violation

__all__ = ["Settings", "default_home", "load"]


def default_home(environ: Mapping[str, str]) -> Path:
    """Return the XDG data directory of pilotfish."""
    data = environ.get("XDG_DATA_HOME") or str(Path(environ.get("HOME", "~")).expanduser() / ".local" / "share")
    return Path(data) / "pilotfish"


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Every option: flag `--http-port`, over `PILOTFISH_HTTP_PORT`, over `http_port` in the file, over the default.

    Args:
        home: directory of all state: token, database, artifacts, predictions; one control plane at a time.
            Default: `$XDG_DATA_HOME/pilotfish`.
        config: TOML file with any of these options; default `HOME/pilotfish.toml` where it exists.
        host: address for gRPC and HTTP; anything but loopback needs `tls_cert` and `tls_key`.
        port: gRPC port; 0: any free one.
        http_port: port of metrics, probes and console; 0: any free one.
        database: `sqlite:///FILE` or `postgresql://USER@HOST/NAME`; "": SQLite at `HOME/pilotfish.db`.
        database_readers: threads (and connections) that read, >= 1.
        database_writers: threads (and connections) that write; SQLite always has one.
        tls_cert: PEM file with the server's certificate chain; "": no TLS.
        tls_key: PEM file with its key.
        tls_client_ca: PEM file; when set, clients must present a certificate signed by it (mutual TLS).
        authentication: False lets everyone be administrator; allowed on loopback only.
        artifact_store: where artifacts go; "": `HOME/artifacts`.
        max_artifact_bytes: largest artifact, all its files together, > 0.
        upload_expiry_s: seconds that an upload is kept after it last grew, > 0.
        validation_timeout_s: seconds that the validation of one artifact may take, > 0.
        validation_memory_mib: address space of one validation; the ONNX runtime alone maps about 300 MiB.
        mlflow_uri: MLflow server that every run is also sent to, such as `http://127.0.0.1:5000`; "": none.
        mlflow_token: bearer token for it; "": none.
        prediction_store: `local` or `shared`.
        data_roots: directories that training data may be read from, separated like a PATH, beside `HOME/data`.
        private_networks: networks (CIDR, separated by commas) that API sources may reach though they are not public.
        training_jobs: jobs that may run at once on this machine, >= 1.
        gateway_port: port of the gateway that all endpoints share; 0: any free one.
        endpoint_ports: ports that endpoints get for themselves, as FIRST-LAST; "" or "0": none.
        drain_s: seconds that running calls get at the end, >= 0.
        default_deadline_s: seconds that a unary call gets when its caller sets no deadline, > 0.
        lease_s: seconds after which another control plane takes over from a dead leader, >= 1.
        sweep_s: seconds between two looks of each reconciler when nothing wakes it, > 0.
        log_level: debug, info, warning or error.
        log_format: text or json.
    """

    home: Path = Path()
    config: str = ""
    host: str = "127.0.0.1"
    port: int = 7433
    http_port: int = 7434
    database: str = ""
    database_readers: int = 4
    database_writers: int = 4
    tls_cert: str = ""
    tls_key: str = ""
    tls_client_ca: str = ""
    authentication: bool = True
    artifact_store: str = ""
    max_artifact_bytes: int = 50 * 1024**3
    upload_expiry_s: float = 86_400.0
    validation_timeout_s: float = 120.0
    validation_memory_mib: int = 4096
    mlflow_uri: str = ""
    mlflow_token: str = ""
    prediction_store: str = "local"
    data_roots: str = ""
    private_networks: str = ""
    training_jobs: int = 1
    gateway_port: int = 7435
    endpoint_ports: str = "7500-7999"
    drain_s: float = 10.0
    default_deadline_s: float = 30.0
    lease_s: float = 10.0
    sweep_s: float = 5.0
    log_level: str = "info"
    log_format: str = "text"

    def __post_init__(self) -> None:
        """Refuse what cannot work or is not safe, all problems at once."""
        violations = [*self._unsafe(), *self._out_of_range()]
        if violations:
            raise InvalidArgument(
                f"the control plane cannot start with these settings ({len(violations)} to change)",
                reason="SETTINGS",
                violations=violations,
            )

    @property
    def database_url(self) -> str:
        """The database's URL with the default filled in."""
        return self.database or f"sqlite:///{self.home / 'pilotfish.db'}"

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach `host`."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host.strip("[]")).is_loopback
        except ValueError:
            return False

    def _unsafe(self) -> list[Violation]:
        found = []
        if bool(self.tls_cert) != bool(self.tls_key):
            found.append(Violation("tls_cert", "set both tls_cert and tls_key, or neither"))
        if self.tls_client_ca and not self.tls_cert:
            found.append(Violation("tls_client_ca", "needs tls_cert and tls_key"))
        for name in ("tls_cert", "tls_key", "tls_client_ca"):
            path = getattr(self, name)
            if path and not Path(path).is_file():
                found.append(Violation(name, f"there is no file {path}"))
        if not self.is_loopback and not self.tls_cert:
            found.append(
                Violation(
                    "host",
                    f"{self.host} can be reached from other machines: set tls_cert and tls_key "
                    "(PILOTFISH_TLS_CERT, PILOTFISH_TLS_KEY), or bind 127.0.0.1",
                    "BIND_WITHOUT_TLS",
                )
            )
        if not self.is_loopback and not self.authentication:
            found.append(
                Violation(
                    "authentication",
                    f"{self.host} can be reached from other machines: set authentication to true, or bind 127.0.0.1",
                    "BIND_WITHOUT_AUTHENTICATION",
                )
            )
        return found

    def _out_of_range(self) -> list[Violation]:
        checks = [
            ("port", 0 <= self.port <= 65535, "must be in 0..65535"),
            ("http_port", 0 <= self.http_port <= 65535, "must be in 0..65535"),
            ("database_readers", self.database_readers >= 1, "must be at least 1"),
            ("database_writers", self.database_writers >= 1, "must be at least 1"),
            ("prediction_store", self.prediction_store in ("local", "shared"), "must be local or shared"),
            ("gateway_port", 0 <= self.gateway_port <= 65535, "must be in 0..65535"),
            ("endpoint_ports", _is_port_range(self.endpoint_ports), 'must be FIRST-LAST in 1..65535, or "0"'),
            (
                "mlflow_uri",
                not self.mlflow_uri or self.mlflow_uri.startswith(("http://", "https://")),
                "must begin with http:// or https://",
            ),
            ("max_artifact_bytes", self.max_artifact_bytes > 0, "must be positive"),
            ("upload_expiry_s", self.upload_expiry_s > 0, "must be positive"),
            ("validation_timeout_s", self.validation_timeout_s > 0, "must be positive"),
            ("validation_memory_mib", self.validation_memory_mib >= 512, "must be at least 512"),
            ("drain_s", self.drain_s >= 0, "must not be negative"),
            ("default_deadline_s", self.default_deadline_s > 0, "must be positive"),
            ("lease_s", self.lease_s >= 1, "must be at least 1"),
            ("sweep_s", self.sweep_s > 0, "must be positive"),
            ("log_level", self.log_level in ("debug", "info", "warning", "error"), "no such level"),
            ("log_format", self.log_format in ("text", "json"), "must be text or json"),
        ]
        return [Violation(name, f"{text}, not {getattr(self, name)!r}") for name, good, text in checks if not good]


def _is_port_range(text: str) -> bool:
    if text in ("", "0"):
        return True
    first, dash, last = text.partition("-")
    return bool(dash) and first.isdigit() and last.isdigit() and 1 <= int(first) <= int(last) <= 65535


_TYPES = get_type_hints(Settings)
_NAMES = tuple(f.name for f in dataclasses.fields(Settings))


def load(argv: Sequence[str] | None = None, environ: Mapping[str, str] | None = None) -> Settings:
    """Return the settings from flags, environment and file.

    Args:
        argv: flags without the program's name; None: none.
        environ: the environment; None: the process's own.

    Raises:
        InvalidArgument: a value has the wrong form, is unknown or unsafe; names each.
    """
    environ = os.environ if environ is None else environ
    flags = _from_flags(argv or ())
    env = {n: environ[f"PILOTFISH_{n.upper()}"] for n in _NAMES if environ.get(f"PILOTFISH_{n.upper()}")}
    home = Path(flags.get("home") or env.get("home") or default_home(environ))
    config = flags.get("config") or env.get("config") or ""
    file = _from_file(config, home / "pilotfish.toml")
    values: dict[str, Any] = {}
    problems: list[Violation] = []
    for source, given in (("the file", file), ("the environment", env), ("a flag", flags)):
        for name, value in given.items():
            if name not in _NAMES or (name in ("home", "config") and source == "the file"):
                problems.append(Violation(name, f"{source} sets it, and there is no such option there"))
                continue
            try:
                values[name] = _convert(name, value)
            except ValueError as error:
                problems.append(Violation(name, f"{source} sets {value!r}: {error}"))
    if problems:
        raise InvalidArgument("some settings cannot be read", reason="SETTINGS", violations=problems)
    values.setdefault("home", home)
    values["home"] = values["home"].expanduser().absolute()
    return Settings(**values)


def _from_flags(argv: Sequence[str]) -> dict[str, str]:
    parser = argparse.ArgumentParser("pilotfish_control_plane", allow_abbrev=False, description=Settings.__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    for name in _NAMES:
        parser.add_argument("--" + name.replace("_", "-"), default=argparse.SUPPRESS)
    return vars(parser.parse_args(list(argv)))


def _from_file(config: str, default: Path) -> dict[str, Any]:
    path = Path(config) if config else default
    if not config and not path.exists():
        return {}
    try:
        return tomllib.loads(path.read_text())
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise InvalidArgument(f"the settings file {path} cannot be read: {error}", reason="SETTINGS") from error


def _convert(name: str, value: object) -> object:
    """Return `value` in the type of option `name`; text is parsed, TOML's own types are taken as they are."""
    wanted = _TYPES[name]
    if wanted is bool:
        if isinstance(value, bool):
            return value
        words = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
        if str(value).lower() not in words:
            raise ValueError("give true or false")
        return words[str(value).lower()]
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        raise ValueError(f"give {'text' if wanted in (str, Path) else 'a number'}")
    if wanted in (int, float):
        try:
            return wanted(value)
        except ValueError:
            raise ValueError("give a number") from None
    return wanted(str(value))
