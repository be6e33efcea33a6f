"""The client of language-model servers: what is tried again, what is not, and how much is under way at once."""

import functools
import gzip
import threading
import time
import zlib
from email.utils import formatdate

import pytest
from loopback import serving

from bench.errors import BenchError
from bench.generation import http_client, http_transport
from bench.generation.http_client import RefusedError, UnavailableError, get, post_all

pytestmark = pytest.mark.usefixtures("short_pauses")


def once(first, then=(200, {"ok": True})):
    """`first` for each body's first time, `then` after it."""
    seen = []

    def answer(_path, body):
        if body in seen:
            return then
        seen.append(body)
        return first

    return answer


def test_every_body_is_answered_with_its_own_index():
    with serving(lambda path, body: (200, {"double": 2 * body["x"]})) as server:
        answers = dict(post_all(server.url, ({"x": i} for i in range(50)), concurrency=8))
    assert answers == {i: {"double": 2 * i} for i in range(50)}
    assert len(server.requests) == 50


def test_no_bodies_no_requests():
    with serving(lambda path, body: (200, {})) as server:
        assert list(post_all(server.url, [])) == []
    assert server.requests == []


def test_no_more_than_concurrency_requests_are_under_way_and_as_many_are():
    full = threading.Barrier(5, timeout=20)

    def answer(_path, _body):
        full.wait()  # passes only when five requests overlap
        time.sleep(0.01)
        return 200, {}

    with serving(answer) as server:
        assert len(list(post_all(server.url, range(25), concurrency=5))) == 25
    assert server.most_at_once == 5


def test_bodies_are_read_only_as_far_as_needed():
    read = []

    def bodies():
        for i in range(1000):
            read.append(i)
            yield i

    with serving(lambda path, body: (200, {})) as server:
        answers = post_all(server.url, bodies(), concurrency=3)
        next(answers)
        answers.close()
    assert len(read) <= 7


@pytest.mark.parametrize(
    "first", [(429, {}), (500, {}), (503, b"busy"), None, (200, b"cut", {"Content-Length": "99"})], ids=str
)
def test_what_may_pass_is_tried_again(first, capsys):
    with serving(once(first)) as server:
        assert dict(post_all(server.url, ["a", "b"], concurrency=1, timeout=0.5)) == {0: {"ok": True}, 1: {"ok": True}}
    assert len(server.requests) == 4
    assert capsys.readouterr().err.count("tried up to 6 times") == 1


def test_no_answer_in_time_is_tried_again():
    def answer(_path, _body, slow=[True]):  # noqa: B006
        if slow:
            slow.clear()
            time.sleep(1)
        return 200, {}

    with serving(answer) as server:
        assert list(post_all(server.url, ["a"], timeout=0.2)) == [(0, {})]
    assert len(server.requests) == 2


@pytest.mark.parametrize(
    "after", [lambda: "1", lambda: formatdate(time.time() + 2, usegmt=True)], ids=["seconds", "date"]
)
def test_the_server_s_own_pause_is_kept(after):
    came = []

    def answer(_path, _body):
        came.append(time.monotonic())
        return (429, {}, {"Retry-After": after()}) if len(came) == 1 else (200, {})

    with serving(answer) as server:
        list(post_all(server.url, ["a"]))
    assert came[1] - came[0] > 0.9


def test_a_pause_beyond_reason_is_an_error_at_once():
    with (
        serving(lambda path, body: (429, {"error": {"message": "quota"}}, {"Retry-After": "7200"})) as server,
        pytest.raises(UnavailableError, match=r"answers 429 \(quota\) and asks to wait 7200 s"),
    ):
        list(post_all(server.url, ["a"]))
    assert len(server.requests) == 1


def test_a_server_that_stays_broken_is_an_error_after_every_retry():
    with (
        serving(lambda path, body: (500, {"error": {"message": "engine is dead"}})) as server,
        pytest.raises(UnavailableError, match=r"answers 500 \(engine is dead\), 4 times in a row"),
    ):
        list(post_all(server.url, ["a"], retries=3))
    assert len(server.requests) == 4


def test_nobody_there():
    with serving(lambda path, body: (200, {})) as server:
        pass
    with pytest.raises(UnavailableError, match=r"can't be reached \(Connection refused\), 2 times in a row"):
        list(post_all(server.url, ["a"], retries=1))


@pytest.mark.parametrize("status", [301, 400, 401, 403, 404, 413, 422])
def test_refusals_are_not_tried_again(status):
    with (
        serving(lambda path, body: (status, {"error": {"message": "no,\nnot this"}})) as server,
        pytest.raises(RefusedError, match=rf"/v1 answers {status}: no, not this$") as caught,
    ):
        list(post_all(server.url, ["a"]))
    assert len(server.requests) == 1
    assert (caught.value.status, caught.value.index) == (status, 0)


def test_tolerated_refusals_are_answers_and_the_rest_is_asked():
    def answer(_path, body):
        return (422, {"detail": "too long"}) if body == 3 else (200, {"body": body})

    with serving(answer) as server:
        found = dict(post_all(server.url, range(20), concurrency=2, tolerated=(400, 422)))
        assert isinstance(found[3], RefusedError)
        assert found[3].status == 422
        assert {index: found[index] for index in found if index != 3} == {i: {"body": i} for i in range(20) if i != 3}
        with pytest.raises(RefusedError, match="too long"):
            list(post_all(server.url, range(20), concurrency=2, tolerated=(400,)))


def test_what_is_not_json_is_refused_and_quoted_briefly():
    with (
        serving(lambda path, body: (200, b"<html>" + b"x" * 5000)) as server,
        pytest.raises(RefusedError, match="is not JSON: <html>x") as caught,
    ):
        list(post_all(server.url, ["a"]))
    assert len(str(caught.value)) < 500


def test_after_an_error_no_further_body_is_sent():
    def answer(_path, body):
        return (400, {}) if body == 0 else (200, {})

    with serving(answer) as server:
        with pytest.raises(RefusedError):
            list(post_all(server.url, range(100), concurrency=2))
        assert len(server.requests) <= 5


def test_the_key_is_sent_and_a_netrc_entry_does_not_replace_it(tmp_path, monkeypatch):
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login someone password else\n")
    monkeypatch.setenv("NETRC", str(netrc))
    monkeypatch.setenv("SOME_KEY", " secret\n")
    with serving(lambda path, body: (200, {})) as server:
        get(server.url, api_key=http_client.api_key("SOME_KEY"))
        get(server.url)
    assert [headers.get("Authorization") for _, _, headers in server.requests] == ["Bearer secret", None]


@pytest.mark.parametrize("value", [None, "", "two words", "clé"])
def test_no_usable_key_is_an_error_that_names_the_variable_and_keeps_the_value(value, monkeypatch):
    monkeypatch.delenv("SOME_KEY", raising=False)
    if value is not None:
        monkeypatch.setenv("SOME_KEY", value)
    with pytest.raises(BenchError, match="SOME_KEY") as caught:
        http_client.api_key("SOME_KEY")
    assert not value or value not in str(caught.value)


def test_a_proxy_of_the_environment_is_used(monkeypatch):
    with serving(lambda path, body: (200, {"asked": path})) as proxy:
        monkeypatch.setenv("http_proxy", proxy.url.replace("//", "//user:word@"))
        monkeypatch.setenv("no_proxy", "elsewhere.example")
        assert get("http://server.example/v1") == {"asked": "http://server.example/v1"}
    assert proxy.requests[0][2]["Proxy-Authorization"].startswith("Basic ")


def test_a_retry_after_that_can_not_be_read_is_left_out():
    turn = iter([(429, {}, {"Retry-After": "soon"}), (200, {})])
    with serving(lambda path, body: next(turn)) as server:
        assert get(server.url) == {}


def test_a_url_that_is_none():
    with pytest.raises(BenchError, match="can't be asked"):
        get("http://")


OK = b"HTTP/1.1 200 OK\r\n"
ZEROS = b"0" * 2**20


def endless(first, piece, pause=0.0, seconds=20.0):
    """An answer that begins with `first` and goes on with `piece` for as long as it is read."""

    def write(file):
        file.write(first)
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            file.write(piece)
            time.sleep(pause)

    return write


@functools.cache
def bomb():
    """64 MiB of zeros, packed a thousand to one."""
    packer = zlib.compressobj(wbits=31)
    return b"".join([*(packer.compress(ZEROS) for _ in range(64)), packer.flush()])


@pytest.mark.parametrize(
    "answer",
    [
        lambda: (200, bomb(), {"Content-Encoding": "gzip"}),
        lambda: (200, gzip.compress(bomb()), {"Content-Encoding": "gzip, gzip"}),
        lambda: (500, bomb(), {"Content-Encoding": "gzip"}),
        lambda: endless(OK + b"\r\n", ZEROS),
        lambda: endless(OK + b"Transfer-Encoding: chunked\r\n\r\n", b"100000\r\n" + ZEROS + b"\r\n"),
        lambda: endless(b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 1000),
    ],
    ids=["gzip", "gzip of gzip", "error", "no length", "chunks", "go on"],
)
def test_an_answer_without_measure_is_refused_in_time_and_space(answer, monkeypatch):
    monkeypatch.setattr(http_transport, "MOST_BYTES", 4 * 2**20)
    found = answer()
    with (
        serving(lambda path, body: found) as server,
        pytest.raises(BenchError, match=r"answers with more than 32 MiB"),
    ):
        list(post_all(server.url, ["a"], timeout=10))
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    "first",
    [b"", OK, OK + b"X-Long: ", OK + b"\r\n", OK + b"Content-Length: 9999\r\n\r\n", OK + b"Connection: close\r\n"],
)
def test_an_answer_byte_by_byte_counts_as_none(first):
    start = time.monotonic()
    with (
        serving(lambda path, body: endless(first, b" ", pause=0.05)) as server,
        pytest.raises(UnavailableError, match=r"did not answer within 0.4 s, 2 times in a row"),
    ):
        list(post_all(server.url, ["a"], timeout=0.4, retries=1))
    assert len(server.requests) == 2
    assert time.monotonic() - start < 5


def test_an_answer_that_comes_in_pieces_is_read():
    def write(file):
        for byte in OK + b'Content-Length: 9\r\n\r\n{"ok": 1':
            file.write(bytes([byte]))
        time.sleep(0.1)
        file.write(b"}")

    with serving(lambda path, body: write) as server:
        assert get(server.url) == {"ok": 1}
    with serving(lambda path, body: (200, gzip.compress(b'{"ok": 1}'), {"Content-Encoding": "gzip"})) as server:
        assert get(server.url) == {"ok": 1}


@pytest.mark.parametrize(
    ("answer", "match"),
    [
        ((500, b"[" * 200_000), r"answers 500 \(\[\[.*\), 2 times in a row"),
        ((200, b"[" * 200_000), r"is not JSON: \[\["),
        ((200, b'{"a":' * 200_000), "is not JSON"),
        ((400, b'{"error":' * 200_000), "answers 400"),
        ((400, b'{"error":' * 300 + b"1" + b"}" * 300), "answers 400: 1"),
        ((200, b"1" * 5000), "is not JSON"),
        ((200, b""), "is not JSON: nothing"),
        ((200, b'{"a": 1'), "is not JSON"),
        ((200, b"\xff\xfe{"), "is not JSON"),
        ((200, b"\xff\x00"), "is not JSON"),
        ((200, b"data: {}\n\n", {"Content-Type": "text/event-stream"}), "is not JSON: data"),
        ((204, b""), "answers 204: No Content"),
        ((302, b"", {"Location": "http://127.0.0.1:9/"}), "answers 302: Found"),
        ((200, b"no gzip", {"Content-Encoding": "gzip"}), "can't be asked: .*gzip"),
        ((429, {}, {"Retry-After": "9" * 400}), r"answers 429 .*asks to wait \d+ s"),
        ((429, {}, {"Retry-After": "9" * 5000}), r"answers 429 .*2 times in a row"),
        ((500, b"x", {"Content-Length": "5, 6"}), "can't be asked"),
        (lambda file: file.write(OK + b"X: 1\r\n" * 5000 + b"\r\n{}"), r"2 times in a row"),
        (lambda file: file.write(OK + b"X: " + b"1" * 99_999 + b"\r\n\r\n{}"), r"2 times in a row"),
        (lambda file: file.write(b"SSH-2.0-OpenSSH\r\n"), r"2 times in a row"),
        (lambda file: file.write(OK + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n"), r"2 times in a row"),
        (endless(OK + b"Transfer-Encoding: chunked\r\n\r\n", ZEROS), r"2 times in a row"),  # the length of a chunk
        (
            lambda file: file.write(b"HTTP/1.1 400 \x1b[31mred\r\nContent-Length: 0\r\n\r\n"),
            r"answers 400: \\x1b.31mred",
        ),
    ],
)
def test_what_a_server_may_never_say_is_one_printable_sentence(answer, match):
    with serving(lambda path, body: answer) as server, pytest.raises(BenchError, match=match) as caught:
        list(post_all(server.url, ["a"], timeout=5, retries=1))
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 600


def test_a_server_s_words_do_not_steer_the_terminal():
    said = "\x1b]0;title\x07\x1b[2J red\r\nforged\u2028line \u202egnp.exe \ud800 \x9b31m é"
    with (
        serving(lambda path, body: (400, {"error": {"message": said}})) as server,
        pytest.raises(RefusedError) as caught,
    ):
        get(server.url)
    assert str(caught.value).isprintable()
    assert str(caught.value).endswith(" é")
    str(caught.value).encode()
