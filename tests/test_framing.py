"""Promise: framing. A stream has no borders but the newline, whatever pieces it comes in."""

import random

import oracle
import pytest
from cases import BLANKS, CASES, WORDS
from examples import each_example
from hypothesis import strategies as st


@pytest.mark.promise("framing")
def test_a_byte_at_a_time(server):
    speaker, listener = server.pair()
    speaker.send_parts([bytes([byte]) for byte in b"one at\r\na time\n"], pause=0.02)
    listener.expect_lines(speaker, ["one at", "a time"])


@pytest.mark.promise("framing")
def test_half_a_line_is_not_delivered(server):
    speaker, listener = server.pair()
    speaker.send(b"half")
    listener.expect_nothing()
    speaker.send(b" and half\nanother")
    listener.expect_line(speaker, "half and half")
    listener.expect_nothing()
    speaker.send(b"\n")
    listener.expect_line(speaker, "another")


@pytest.mark.promise("framing")
def test_a_hundred_lines_at_once(server):
    speaker, listener = server.pair()
    texts = [f"line {number}" for number in range(100)]
    speaker.send("".join(f"{text}\n" for text in texts).encode())
    listener.expect_lines(speaker, texts)


@pytest.mark.promise("framing")
def test_characters_cut_in_two(server):
    speaker, listener = server.pair()
    speaker.send_parts([bytes([byte]) for byte in WORDS.encode() + b"\n"], pause=0.003)
    listener.expect_line(speaker, WORDS)


@pytest.mark.parametrize("ending", [b"\r\n", b"\r\0\n"], ids=["crlf", "crnul"])
@pytest.mark.promise("framing")
def test_line_endings_cut_in_two(server, ending):
    speaker, listener = server.pair()
    speaker.send_parts([b"one" + ending[:-1], ending[-1:] + b"two", ending[:1], ending[1:]], pause=0.05)
    listener.expect_lines(speaker, ["one", "two"])


@pytest.mark.promise("framing")
def test_telnet_commands_cut_in_two(server):
    speaker, listener = server.pair()
    for line, text in CASES["telnet"] + CASES["unfinished telnet"]:
        speaker.send_parts([bytes([byte]) for byte in line + b"\n"], pause=0.003)
        if server.model.foreign:
            assert oracle.collapse(listener.read_line().decode()) == oracle.collapse(speaker.line(text).decode())
        else:
            listener.expect_line(speaker, text)


@pytest.mark.promise("framing")
def test_an_unfinished_command_ends_with_its_line(server):
    speaker, listener = server.pair()
    for start in (b"sub\xff\xfa\x18", b"option\xff\xfd", b"lone\xff"):
        speaker.send(start + b"\nnext line\n")
        listener.expect_lines(speaker, [start.partition(b"\xff")[0].decode(), "next line"])


@pytest.mark.promise("framing")
def test_blank_lines_are_no_messages(server):
    speaker, listener = server.pair()
    for line in BLANKS:
        speaker.send(line + b"\n" + line + b"\nmark\n")
        listener.expect_line(speaker, "mark")


@pytest.mark.promise("framing")
def test_last_line_without_newline(server):
    """At the end of the stream, be it of one direction or of both, what stands there is a message."""
    speaker, listener = server.pair()
    speaker.send(b"first\nlast words")
    speaker.finish()
    listener.expect_lines(speaker, ["first", "last words"])


@pytest.mark.promise("framing", needs="broadcast")
def test_last_line_of_one_who_closed(server):
    speaker, listener = server.join(2)
    speaker.send(b"first\nlast words")
    speaker.close()
    listener.expect_lines(speaker, ["first", "last words"])
    listener.expect_nothing()


@pytest.mark.promise("framing")
def test_a_blank_last_line_is_no_message(server):
    speaker, listener = server.pair()
    speaker.send(b"first\n \r")
    speaker.finish()
    listener.expect_line(speaker, "first")
    if listener is speaker:
        listener.expect_closed()
    else:
        speaker.expect_closed()
        listener.expect_nothing()


# As st.text() has it, which would take a second, in every worker, to make its tables of all of Unicode.
CHARACTERS = st.one_of(st.integers(0, 0xD7FF), st.integers(0xE000, 0x10FFFF)).map(chr)
LINES = st.lists(
    st.one_of(
        st.lists(CHARACTERS, max_size=30).map(lambda characters: "".join(characters).encode()),
        st.binary(max_size=30),
        st.sampled_from([line for cases in CASES.values() for line, _ in cases] + BLANKS),
    ),
    max_size=6,
).map(lambda lines: b"".join(line + b"\n" for line in lines))


@pytest.mark.promise("framing")
def test_any_cutting_of_any_messages_gives_the_same(server):
    speaker, listener = server.pair()

    @each_example(LINES.filter(oracle.is_clear), st.data())
    def check(sent, data):
        cuts = sorted(data.draw(st.sets(st.integers(0, len(sent)), max_size=5)))
        parts = [sent[start:end] for start, end in zip([0, *cuts], [*cuts, None], strict=True)]
        speaker.send_parts([part for part in parts if part], pause=0.002)
        speaker.send(b"mark\n")
        came = listener.read_until(speaker.line("mark")).decode()
        wanted = b"".join(map(speaker.line, [*oracle.hear(sent), "mark"])).decode()
        assert oracle.collapse(came) == oracle.collapse(wanted), f"sent were {parts}"


@pytest.mark.promise("framing")
def test_random_bytes(server):
    """A client that sends noise is heard as the contract says, and harms nobody."""
    dice = random.Random(3)
    for _ in range(4):
        noise = dice.randbytes(3000)
        for unclear in oracle.UNCLEAR:
            noise = noise.replace(unclear, b"")
        speaker, listener = server.pair()
        speaker.send(noise)
        speaker.finish()
        lines = b"".join(map(speaker.line, oracle.hear(noise))).decode()
        came = b""
        while came.count(b"\n") < lines.count("\n"):
            came += listener.read_line()
        assert oracle.collapse(came.decode()) == oracle.collapse(lines)
        speaker.expect_closed()
        listener.close()
