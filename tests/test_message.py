"""Promise: message. Text comes through, and nothing that could take over another one's terminal."""

import oracle
import pytest
from cases import BLANKS, CASES
from examples import each_example
from hypothesis import given
from hypothesis import strategies as st

ANYTHING_BUT_LINES = st.binary(max_size=60).map(lambda line: line.replace(b"\n", b""))
TELLING = st.lists(
    st.sampled_from(
        [b"a", b" ", "é".encode(), "\u202e".encode(), b"\x1b[0m", b"\r", b"\0", b"\xe2\x82"]
        + [b"\xed\xa0\x80", b"\xff", b"\xfa", b"\xf0", b"\xf1", b"\xfb", b"\xfd", b"\x01"]
    ),
    max_size=20,
).map(b"".join)


def heard(listener, speaker):
    """The text of the next line, that `speaker` must have said."""
    line, start = listener.read_line(), speaker.line("")[:-1]
    if not line.startswith(start):
        listener.unread[:0] = line
        listener.fail("somebody else said something", start)
    return line[len(start) : -1].decode()


@pytest.mark.parametrize("topic", CASES)
@pytest.mark.promise("message")
def test_cleaning(server, topic):
    speaker, listener = server.pair()
    for line, text in CASES[topic]:
        speaker.send(line + b"\n")
        if server.model.foreign:
            assert oracle.collapse(heard(listener, speaker)) == oracle.collapse(text)
        else:
            listener.expect_line(speaker, text)


@pytest.mark.promise("message.quit")
def test_quit_is_a_message_like_any_other(server):
    speaker, listener = server.pair()
    speaker.send(b"quit\n")
    listener.expect_line(speaker, "quit")


@pytest.mark.promise("message")
def test_each_character_alone(server):
    """Every control, every special character, and the first and last of what must stay."""
    codes = [*range(0x100), *range(0x2000, 0x2070), 0xFEFF, 0xFFFD, 0xFFFF, 0x10000, 0x10FFFF]
    speaker, listener = server.pair()
    for code in codes:
        line = f"<{chr(code)}>".encode()
        if code != oracle.LF:
            speaker.send(line + b"\n")
            listener.expect_line(speaker, oracle.clean(line))


@pytest.mark.promise("message")
def test_any_line_is_cleaned_as_the_contract_says(server):
    speaker, listener = server.pair()

    @each_example(st.one_of(ANYTHING_BUT_LINES, TELLING).filter(oracle.is_clear))
    def check(line):
        speaker.send(line + b"\nmark\n")
        text = oracle.clean(line)
        if not oracle.blank(text):
            assert oracle.collapse(heard(listener, speaker)) == oracle.collapse(text)
        listener.expect_line(speaker, "mark")


@pytest.mark.parametrize("cases", CASES.values(), ids=CASES)
def test_the_oracle_agrees_with_the_examples(cases):
    for line, text in cases:
        assert oracle.clean(line) == text


def test_the_oracle_finds_the_blanks_blank():
    for line in BLANKS:
        assert oracle.blank(oracle.clean(line))


@given(st.one_of(st.binary(), TELLING))
def test_the_oracle_decodes_as_python_does(data):
    assert oracle.decode(data) == data.decode(errors="replace")
