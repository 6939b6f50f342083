"""No secret of a URI is shown, however it was put there and whatever fails because of it."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import quote

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from hpo.core.errors import StorageError, TrackingError
from hpo.core.storage import Storage, absolute
from hpo.core.uris import fault, has_secret, public, redacted, shown
from hpo.tracking.backend import check_answers
from tests.helpers.runs import Case, assert_only_stages, main

SECRET = "s3cr3tW0rd"

HOSTILE = [
    ("//ada:s3cr3tW0rd@h.example:5000", "//***@h.example:5000"),
    ("https://ada:s3cr3tW0rd@h.example/x", "https://ada:***@h.example/x"),
    ("http://s3cr3tW0rd@h.example", "http://***@h.example"),
    ("http://s3cr3tW0rd:@h.example", "http://***@h.example"),
    ("http://:s3cr3tW0rd@h.example", "http://***@h.example"),
    ("http://ada:s3cr3tW0rd@[::1]:5000/x", "http://ada:***@[::1]:5000/x"),
    ("http://ada:s3cr3tW0rd@[::1", "http://ada:***@[::1"),
    ("http://ada:s3cr3tW0rd@h.example:port", "http://ada:***@h.example:***"),
    ("http://ada:a/s3cr3tW0rd@h.example", "http://ada:***@h.example"),
    ("http://ada:a#s3cr3tW0rd@h.example", "http://***"),
    ("http://ada:a?s3cr3tW0rd@h.example", "http://***"),
    ("http://ada:a@s3cr3tW0rd@h.example", "http://ada:***@h.example"),
    ("http://ada:a[s3cr3tW0rd@h.example", "http://ada:***@h.example"),
    ("http://ada:a s3cr3tW0rd@h.example", "http://ada:***@h.example"),
    ("http://a/s3cr3tW0rd@h.example", "http://***@h.example"),
    ("http:/ada:s3cr3tW0rd@h.example", "http:/ada:***@h.example"),
    (" http://ada:s3cr3tW0rd@h.example", " http://ada:***@h.example"),
    ("HTTP://ada:s3cr3tW0rd@h.example", "HTTP://ada:***@h.example"),
    ("http://h.example/?password=s3cr3tW0rd", "http://h.example/?password=***"),
    ("http://h.example?region=eu&token=s3cr3tW0rd", "http://h.example?region=eu&token=***"),
    ("http://h.example?To%6Ben=s3cr3tW0rd", "http://h.example?***"),
    ("http://h.example?s3cr3tW0rd", "http://h.example?***"),
    ("http://h.example?password=a@s3cr3tW0rd", "http://***"),
    ("http://h.example:5000?password=a@s3cr3tW0rd", "http://***"),
    ("http://h.example/x;password=s3cr3tW0rd", "http://h.example/x;password=***"),
    ("postgresql://ada:s3cr3tW0rd@h/db?sslmode=require", "postgresql://ada:***@h/db?sslmode=require"),
    ("postgresql+psycopg://ada@h/db?password=s3cr3tW0rd", "postgresql+psycopg://ada@h/db?password=***"),
    ("postgresql://h/db?sslpassword=s3cr3tW0rd&host=/run", "postgresql://h/db?sslpassword=***&host=/run"),
    ("mssql+pyodbc:///?odbc_connect=DRIVER%3Dx%3BPWD%3Ds3cr3tW0rd", "mssql+pyodbc:///?odbc_connect=***"),
    ("s3://KEY:s3cr3tW0rd@bucket/x?region=eu", "s3://***@bucket/x?region=eu"),
    ("s3://KEY:a/s3cr3tW0rd@bucket/x?region=eu", "s3://***@bucket/x?region=eu"),
    ("s3://bucket/x?session_token=s3cr3tW0rd", "s3://bucket/x?session_token=***"),
    (
        "s3://bucket?endpoint_override=http%3A%2F%2Fada%3As3cr3tW0rd%40h",
        "s3://bucket?endpoint_override=***",
    ),
    ("gs://s3cr3tW0rd@bucket/x", "gs://***@bucket/x"),
    ("abfs://box:s3cr3tW0rd@account.example/x", "abfs://box:***@account.example/x"),
    ("nosuch://s3cr3tW0rd@x", "nosuch://***@x"),
]

HARMLESS = [
    "http://host:5000",
    "https://host/path/of/mlflow",
    "http://[::1]:5000",
    "postgresql://ada@/db?host=/run/postgresql&application_name=x",
    "postgresql+psycopg://ada@host:5432/db?sslmode=verify-full&sslrootcert=/a%20b/c.pem&sslkey=/k.pem",
    "mysql+pymysql://ada@host/db?charset=utf8mb4",
    "sqlite:////tmp/mlflow.db",
    "sqlite:////a:b/c@d/token=1/mlflow.db",
    "file:///a:b@c/x",
    "s3://bucket/ada@example.com/x?scheme=http&endpoint_override=127.0.0.1%3A9000&region=eu-central-1",
    "abfs://container@account.dfs.core.windows.net/x",
    "gs://anonymous@bucket/x",
    "hdfs://ada@host:8020/x",
    "/a:b/c@d?password=x",
    "relative/folder",
    "mlruns",
]


class TestEveryUri:
    @pytest.mark.parametrize(("uri", "expected"), HOSTILE)
    def test_a_secret_is_detected_and_masked(self, uri, expected):
        assert shown(uri) == expected
        assert has_secret(uri)
        assert SECRET not in f"{shown(uri)}{public(uri)}{fault(uri)}"

    @pytest.mark.parametrize(("uri", "expected"), HOSTILE)
    def test_a_secret_is_removed_from_another_library_s_text(self, uri, expected):
        words = f"cannot open {uri}: {SECRET}, 'x{SECRET}y', {quote(uri, safe='')}"
        assert SECRET not in redacted(words, uri)
        assert redacted(words, uri).startswith(f"cannot open {expected}: ")

    @pytest.mark.parametrize("uri", HARMLESS)
    def test_a_uri_without_a_secret_is_shown_unchanged(self, uri):
        assert (shown(uri), has_secret(uri), fault(uri)) == (uri, False, None)
        assert redacted(f"no {uri}", uri) == f"no {uri}"

    @pytest.mark.parametrize(
        ("uri", "masked"),
        [
            ("http://h/#/experiments/1", "http://h/#***"),
            ("http://h?x=1&y=2&region=eu", "http://h?***&region=eu"),
            ("http://h:port", "http://h:***"),
            ("who@h", "***@h"),
        ],
    )
    def test_a_possible_secret_is_masked_but_not_refused(self, uri, masked):
        assert (shown(uri), has_secret(uri)) == (masked, False)

    @pytest.mark.parametrize(
        ("secret", "spelling"), [("a%2Fb%2Fc", "a/b/c"), ("a/b/c", "a%2Fb%2Fc"), ("a'b\\c", r"a\'b\\c"), ("xy", "xy")]
    )
    def test_a_secret_is_found_in_every_spelling(self, secret, spelling):
        assert redacted(f"no user '{spelling}' here", f"http://me:{secret}@h") == "no user '***' here"

    def test_a_short_secret_is_not_removed_from_words(self):
        assert redacted("at: a password", "http://me:a@h") == "at: *** password"

    def test_a_link_is_without_user_and_options(self):
        assert public("https://ada:x@h:1/mlflow?token=x#y") == "https://h:1/mlflow"


SCHEMES = [
    "http",
    "https",
    "postgresql+psycopg",
    "mysql",
    "mssql",
    "sqlite",
    "s3",
    "gs",
    "abfs",
    "hdfs",
    "file",
    "memory",
    "x",
]
AFTER = "host/a?region=eu#b"


@given(st.sampled_from(SCHEMES), st.text(min_size=4), st.sampled_from(["userinfo", "user", "query", "bare"]))
@example("http", "#/x@", "userinfo")
@example("https", "a:b@", "user")
@settings(deadline=None)
def test_no_uri_shows_the_password_that_it_holds(scheme: str, secret: str, place: str) -> None:
    uri = {
        "userinfo": f"{scheme}://ada:{secret}@{AFTER}",
        "user": f"{scheme}://:{secret}@{AFTER}",
        "query": f"{scheme}://host/a?region=eu&password={secret}",
        "bare": f"{scheme}://host/a?{secret}",
    }[place]
    if secret in f"{scheme}://ada:***@{AFTER}&password=***":
        return  # its characters are there without it
    assert secret not in shown(uri)
    assert secret not in public(uri)
    assert secret not in redacted(f"cannot open {uri!s} or {uri!r}", uri)
    assert place == "bare" or has_secret(uri)
    assert secret not in (fault(uri) or "")


@given(st.text(alphabet=":/?#@[]=&;%+ \n\\ab1s3") | st.text())
def test_any_text_can_be_shown_and_checked(text: str) -> None:
    for look in (shown, public, fault, has_secret):
        look(text)  # raises nothing
    assert redacted(text, text) == shown(text)


UNESCAPED = [f"http://ada:a{wrong}{SECRET}@127.0.0.1:9" for wrong in "/?#@[] \t"]


@pytest.mark.parametrize("uri", UNESCAPED)
def test_an_unescaped_password_is_refused_before_a_library_reads_it(uri: str) -> None:
    allowed = r"expected percent-encoded characters \(%2F for /, %3F for \?, %23 for #, %40 for @\)|printable"
    with pytest.raises(TrackingError, match=allowed) as refused:
        check_answers(uri)
    assert SECRET not in str(refused.value)
    with pytest.raises(StorageError, match=allowed) as opened:
        Storage(uri.replace("http", "s3"))
    assert SECRET not in str(opened.value)


@pytest.fixture
def case(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Case:
    monkeypatch.chdir(tmp_path)
    for name in ("MLFLOW_TRACKING_URI", "GRADSWEEP_STORAGE", "RAY_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    case = Case(tmp_path)
    case.study()
    return case


URIS = [uri for uri, _ in HOSTILE]


class TestTheCommand:
    @pytest.mark.parametrize("uri", URIS)
    @pytest.mark.parametrize("option", ["--tracking-uri", "--storage"])
    def test_a_secret_on_the_command_line_is_refused(self, case, capsys, option, uri):
        code, out, err = main(capsys, "run", "study.yaml", option, uri)
        assert (code, out) == (2, "")
        variable = {"--tracking-uri": "MLFLOW_TRACKING_URI", "--storage": "GRADSWEEP_STORAGE"}[option]
        assert re.fullmatch(rf"error: {option}: expected no password [^\n]* set {variable} in the environment\n", err)
        assert SECRET not in err

    @pytest.mark.parametrize(
        "arguments",
        [
            ("run", "http://ada:s3cr3tW0rd@h"),
            ("run", "study.yaml", "http://s3cr3tW0rd@h"),
            ("run", "study.yaml", "--tracking", "http://ada:s3cr3tW0rd@h"),
            ("run", "study.yaml", "--tracking=http://ada:s3cr3tW0rd@h"),
            ("run", "study.yaml", "--address", "ray://s3cr3tW0rd@h:1"),
        ],
    )
    def test_a_secret_in_an_unexpected_place_is_refused(self, case, capsys, arguments):
        code, out, err = main(capsys, *arguments)
        assert (code, out) == (2, "")
        assert re.fullmatch(r"error: argument \d: expected no password on the command line, [^\n]*\n", err)
        assert SECRET not in err

    @pytest.mark.parametrize("uri", [uri.replace("h.example", "127.0.0.1:9") for uri in URIS])
    def test_a_backend_of_the_environment_that_fails_shows_no_secret(self, case, capsys, monkeypatch, uri):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        code, out, err = main(capsys, "report", "study.yaml")
        assert (code, out) == (2, "")
        assert re.fullmatch(r"error: --tracking-uri: [^\n]*\n", err)
        assert SECRET not in err

    @pytest.mark.parametrize("uri", ["http://ada:s3cr3tW0rd@[::1", "http://h:port", "http://h:65536", "http://h]"])
    def test_a_malformed_host_is_one_line(self, case, capsys, monkeypatch, uri):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        for command in ("run", "ui"):
            code, out, err = main(capsys, command, *(["study.yaml"] if command == "run" else ["--no-browser"]))
            assert code == 2
            assert_only_stages(out)
            assert re.fullmatch(r"error: --tracking-uri: expected [^\n]*, got '[^\n]*'\n", err)
            assert SECRET not in err

    @pytest.mark.parametrize("uri", [uri for uri in URIS if re.match("(s3|gs|nosuch):", uri)])
    def test_a_storage_that_cannot_be_opened_shows_no_secret(self, uri):
        try:
            told = str(Storage(absolute(uri)))
        except StorageError as error:
            told = str(error)
        assert SECRET not in told
