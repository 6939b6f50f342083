"""Mask the secrets in URIs. Only this module knows where a URI can hold a secret.

URIs are parsed here by hand and without exceptions, because secrets are often pasted unescaped
(``http://me:a/b@host``): every part that could belong to a secret counts as one. Uses only the standard library,
because workers read addresses of storages.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from urllib.parse import quote, quote_plus, unquote, unquote_plus

from hpo.core.text import complaint

MASK = "***"
DATABASES = ("postgresql", "mysql", "mssql")
FORBIDDEN = "/?#[]@"  # in a user name or password, unless percent-encoded

# "http://", or "//" before a user whose scheme was forgotten; lenient, as a mistyped URI holds the same secrets
_HEAD = re.compile(r"\s*(?:([^/?#@:\s]*):/*|//(?=[^/]*@))")
_LOCAL = ("sqlite", "file", "local", "memory")  # with three slashes, what follows is a path
# Schemes whose part before the "@" is a public name if no password follows: a user, or the container of abfs://.
_NAMED = (*DATABASES, "hdfs", "viewfs", "sftp", "ssh", "smb", "ftp", "abfs", "abfss", "az", "wasb", "wasbs")
_WITH_USER = (*_NAMED, "http", "https")  # whose user may be shown beside a masked password

_SECRET_NAME = re.compile(
    r"pass|pwd|token|secret|key|cred|auth|session|signature|bearer|jwt|(?<![a-z])(sig|sas|pw|pin)(?![a-z])",
    re.IGNORECASE,
)
_ASSIGNED = re.compile(rf"[\w.+-]*(?:{_SECRET_NAME.pattern})[\w.+-]*\s*[=:]", re.IGNORECASE)
_HARMLESS_NAMES = frozenset(
    re.findall(
        r"\w+",
        """
        host hostaddr port user dbname database charset driver application_name connect_timeout client_encoding
        sslmode sslrootcert sslcert sslkey sslcrl ssl_ca ssl_cert ssl_key ssl_capath ssl_cipher ssl_verify_cert
        ssl_verify_identity target_session_attrs gssencmode channel_binding passfile service keepalives
        keepalives_idle keepalives_interval keepalives_count tcp_user_timeout encrypt trustservercertificate
        trusted_connection uri mode cache timeout check_same_thread
        region scheme endpoint_override allow_bucket_creation allow_bucket_deletion tls_ca_file_path
        force_virtual_addressing retry_limit_seconds anonymous request_timeout replication buffer_size
        """,  # of libpq and SQLAlchemy's drivers, then of pyarrow's object stores and HDFS
    )
)
_NAMES_OF_SECRETS = frozenset(  # these may be shown; the name of any other parameter may be part of a secret
    re.findall(
        r"\w+",
        """
        password passwd passphrase pass pwd token access_token auth_token session_token secret secret_key access_key
        secret_access_key api_key apikey key sig signature credential credentials sslpassword odbc_connect
        """,
    )
)
_HARMLESS_VALUE = re.compile(r"[\w .,:/+~{}()*-]*")


@dataclass(frozen=True)
class _Parts:
    """A URI taken apart; joined again, its parts are the URI."""

    head: str  # "http://"
    scheme: str  # "http"
    user: str | None  # between head and "@", up to the first ":"
    password: str | None
    host: str
    port: str | None  # what follows the host's ":"
    path: str
    pieces: tuple[str, ...]  # of the query
    fragment: str | None

    @property
    def userinfo(self) -> str | None:
        """The part before the last "@"."""
        if self.user is None:
            return None
        return self.user if self.password is None else f"{self.user}:{self.password}"

    @property
    def shows_user(self) -> bool:
        """True if the user's name is public."""
        if self.user == "anonymous" and self.password is None:  # gs://anonymous@bucket
            return True
        schemes = _NAMED if self.password is None else _WITH_USER
        return bool(self.user) and self.password != "" and self.scheme in schemes and not _wrong_in(self.user or "")


def shown(uri: str) -> str:
    """Return a URI for display: each part that is or could be a secret becomes ``***``. A path is returned unchanged.

    >>> shown("https://ada:s3cret@example.com/mlflow"), shown("https://t0ken@example.com")
    ('https://ada:***@example.com/mlflow', 'https://***@example.com')
    >>> shown("s3://KEY:S/CRET@bucket/studies?region=eu-west-1&session_token=x")
    's3://***@bucket/studies?region=eu-west-1&session_token=***'
    """
    parts = _parts(uri)
    if parts is None:
        return uri if uri.startswith(("/", ".", "~")) or "@" not in uri else f"{MASK}@{uri.rpartition('@')[2]}"
    if _may_be_query(parts):
        return f"{parts.head}{MASK}"
    user = ""
    if parts.user is not None:
        password = "" if parts.password is None else f":{MASK}"
        user = f"{parts.user}{password}@" if parts.shows_user else f"{MASK}@"
    port = "" if parts.port is None else f":{parts.port if _is_port(parts.port) else MASK}"
    query = "&".join(dict.fromkeys(map(_shown_piece, parts.pieces)))
    return (
        f"{parts.head}{user}{parts.host}{port}{_shown_path(parts)}{'?' if parts.pieces else ''}{query}"
        f"{'' if parts.fragment is None else f'#{MASK}'}"
    )


def public(uri: str) -> str:
    """Return a URI without user and query, for links and other programs, where ``***`` would not work."""
    parts = _parts(uri)
    if parts is None or _may_be_query(parts):
        return shown(uri)
    port = f":{parts.port}" if parts.port and _is_port(parts.port) else ""
    return f"{parts.head}{parts.host}{port}{_shown_path(parts)}"


def has_secret(uri: str) -> bool:
    """Return whether a URI holds a secret, so that it must not appear on a command line."""
    parts = _parts(uri)
    if parts is None:
        return False
    userinfo = parts.user is not None and (bool(parts.password) or not parts.shows_user)
    told = any(_is_secret_piece(piece) for piece in parts.pieces) or _shown_path(parts) != parts.path
    return userinfo or told or (parts.fragment is not None and _is_secret_value(parts.fragment))


def redacted(text: str, uri: str) -> str:
    """Remove a URI's secrets, in every spelling, from another library's text about it.

    >>> redacted("cannot parse 'http://ada:a%2Fb@host': a/b", "http://ada:a%2Fb@host")
    "cannot parse 'http://ada:***@host': ***"
    """
    secrets = _spellings(_secrets(uri))
    long = [re.escape(secret) for secret in secrets if len(secret) > 3]
    short = [rf"(?<!\w){re.escape(secret)}(?!\w)" for secret in secrets if len(secret) <= 3]  # else in every word
    found = "|".join(long + short)
    parts = text.split(uri) if uri else [text]
    return shown(uri).join(re.sub(found, MASK, part) if found else part for part in parts)


def fault(uri: str, field: str = "URI") -> str | None:
    """Return why a URI must be refused before a library reads it, because its error could echo part of a secret.

    Args:
        uri: the URI; the complaint does not show it.
        field: the name of the option or key.

    Returns:
        The complaint, in one line and without a secret; ``None`` if the URI is acceptable.
    """
    parts = _parts(uri)
    if parts is None:
        return None
    if any(ord(character) < 32 or 127 <= ord(character) < 160 for character in uri):
        return complaint(field, "printable characters", "a control character, such as the end of a line")
    if wrong := _wrong_in(parts.userinfo or ""):
        name = "a space" if wrong.isspace() else repr(wrong)
        encoded = ", ".join(f"{quote(character, safe='')} for {character}" for character in "/?#@")
        return complaint(field, f"percent-encoded characters ({encoded})", f"{name} before the last '@'")
    if _is_local(parts):
        return None
    if not re.fullmatch(r"\[[0-9A-Fa-f:.]+(%25[\w.-]+)?\]|[^\[\]\s\\]*", parts.host):
        expected = f"a host name, or an IPv6 address in brackets, after {parts.head}"
        return complaint(field, expected, repr(shown(uri)))
    if parts.port is not None and not _is_port(parts.port):
        return complaint(field, "a port up to 65535 after the host", repr(shown(uri)))
    return None


def scheme(uri: str) -> str:
    """Return the scheme without its driver: ``postgresql`` of ``postgresql+psycopg://``; empty for a path."""
    parts = _parts(uri)
    return parts.scheme if parts else ""


def host_and_port(uri: str) -> tuple[str, int | None]:
    """Return the host and port of a URI that `fault` accepts."""
    parts = _parts(uri)
    if parts is None:
        return "", None
    return parts.host.strip("[]"), int(parts.port) if parts.port and _is_port(parts.port) else None


def _parts(uri: str) -> _Parts | None:
    """Split a URI; ``None`` for a path."""
    if not (found := _HEAD.match(uri)):
        return None
    head, rest, scheme = found[0], uri[found.end() :], (found[1] or "").partition("+")[0].lower()
    user = password = None
    local = scheme in _LOCAL and head.count("/") >= 3
    if not local:
        before, at, after = rest.rpartition("@")
        first = re.split(r"[/?#]", rest, maxsplit=1)[0].rpartition("@")[0]
        if at and ":" in before:
            (user, _, password), rest = before.partition(":"), after
        elif at and (first or rest.startswith("@") or scheme in ("http", "https")):
            user, rest = (before, after) if scheme in ("http", "https") else (first, rest[len(first) + 1 :])
    rest, hashed, fragment = rest.partition("#")
    rest, asked, query = rest.partition("?")
    host, slash, path = ("", "", rest) if local else rest.partition("/")
    name, colon, number = host.rpartition(":")
    port = None
    if colon and not number.endswith("]") and not (name.startswith("[") and "]" not in name):
        host, port = name, number
    pieces = tuple(query.split("&")) if asked else ()
    return _Parts(head, scheme, user, password, host, port, slash + path, pieces, fragment if hashed else None)


def _is_local(parts: _Parts) -> bool:
    return parts.scheme in _LOCAL and parts.head.count("/") >= 3


def _may_be_query(parts: _Parts) -> bool:
    """Return whether the last "@" may be in a query or fragment; the text after it may then be part of a secret."""
    return any(character in (parts.userinfo or "") for character in "?#")


def _is_port(text: str) -> bool:
    return bool(re.fullmatch(r"[0-9]{1,5}|", text, re.ASCII)) and int(text or 0) <= 65535


def _wrong_in(userinfo: str) -> str:
    """Return the first character that a user name or password must not contain unescaped."""
    return next((c for c in userinfo if c in FORBIDDEN or c.isspace() or not (c.isprintable())), "")


def _shown_path(parts: _Parts) -> str:
    """Return a path without the values of ``;password=...`` and similar parameters."""
    if _is_local(parts):
        return parts.path
    return "".join(
        f"{found[0]}{MASK}" if (found := _ASSIGNED.match(piece)) else piece
        for piece in re.split(r"([;/&])", parts.path)
    )


def _shown_piece(piece: str) -> str:
    """Return ``region=eu`` unchanged, ``password=***``, and ``***`` if even the name may be part of a secret."""
    name, equals, _ = piece.partition("=")
    if not equals or name.lower() not in _HARMLESS_NAMES | _NAMES_OF_SECRETS:
        return MASK if piece else ""
    return piece if _is_harmless(piece) else f"{name}={MASK}"


def _is_harmless(piece: str) -> bool:
    name, equals, value = piece.partition("=")
    allowed = bool(equals) and name.lower() in _HARMLESS_NAMES
    return allowed and bool(_HARMLESS_VALUE.fullmatch(_decoded(value))) and not _is_secret_value(value)


def _is_secret_piece(piece: str) -> bool:
    name, equals, value = piece.partition("=")
    if not equals:
        return bool(piece)
    known = name.lower() in _HARMLESS_NAMES
    return _is_secret_value(value) or (
        not known and bool(_SECRET_NAME.search(_decoded(name)) or name == "odbc_connect")
    )


def _is_secret_value(value: str) -> bool:
    """Return whether a value itself holds a user with a password, or named values of which one is a secret."""
    value = _decoded(value)
    return "@" in value or bool(_ASSIGNED.search(value))


def _decoded(text: str) -> str:
    """Unquote a text repeatedly until it no longer changes."""
    for _ in range(8):
        if (plain := unquote_plus(text)) == text:
            break
        text = plain
    return text


def _secrets(uri: str) -> Iterator[str]:
    """Return every part of a URI that `shown` masks."""
    parts = _parts(uri)
    if parts is None:
        yield uri.rpartition("@")[0] if shown(uri) != uri else ""
        return
    if _may_be_query(parts):
        yield uri[len(parts.head) :]
    if not parts.shows_user:
        yield from (parts.userinfo or "", parts.user or "")
    yield parts.password or ""
    if parts.port is not None and not _is_port(parts.port):
        yield parts.port
    for piece in parts.pieces:
        if not _is_harmless(piece):
            yield piece if _shown_piece(piece) == MASK else piece.partition("=")[2]
    for piece in re.split(r"[;/&]", parts.path) if _shown_path(parts) != parts.path else ():
        yield piece[found.end() :] if (found := _ASSIGNED.match(piece)) else ""
    yield parts.fragment or ""


def _spellings(secrets: Iterable[str]) -> list[str]:
    """Return secrets and the fragments a parser may split them into, in every spelling, the longest first."""
    found: set[str] = set()
    for secret in secrets:
        texts = {secret, unquote(secret), unquote_plus(secret), _decoded(secret)}
        texts |= {piece for text in texts for piece in re.split(r"[\s/?#@\[\]:;&=]", text) if len(piece) > 3}
        for text in texts:
            escaped = repr(text)[1:-1]
            found |= {text, quote(text), quote(text, safe=""), quote_plus(text), escaped}
            found |= {escaped.replace("'", "\\'"), json.dumps(text)[1:-1]}
    return sorted(found - {"", MASK}, key=len, reverse=True)
