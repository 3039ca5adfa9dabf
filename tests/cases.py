"""What is sent and what is heard: examples for the promise `message`, by what they are about."""

WORDS = "Zażółć gęślą jaźń, 日本語, العربية, ελληνικά"
FAMILY = "\U0001f468\u200d\U0001f469\u200d\U0001f467\u200d\U0001f466"

CASES = {
    "text": [
        (b"hello", "hello"),
        (WORDS.encode(), WORDS),
        (FAMILY.encode(), FAMILY),
        (b"a\tb", "a\tb"),
        (b"  indented  ", "  indented  "),
        (b"127.0.0.1:1 says: me", "127.0.0.1:1 says: me"),
        (b"%s %d {0} \\n", "%s %d {0} \\n"),
    ],
    "line endings": [
        (b"crlf\r", "crlf"),
        (b"crnul\r\0", "crnul"),
        (b"cr\rinside", "crinside"),
        (b"nul\0inside", "nulinside"),
        (b"two\r\r", "two"),
    ],
    "controls": [
        (b"\x1b[31mred\x1b[0m", "[31mred[0m"),
        (b"\x1b]0;title\x07", "]0;title"),
        (b"bell\x07 backspace\x08 delete\x7f", "bell backspace delete"),
        ("c1 \x9b31m\x85\x80\x9f end".encode(), "c1 31m end"),
        (bytes(set(range(32)) - {10}) + b"all", "\tall"),
        ("no-break\u00a0space".encode(), "no-break\u00a0space"),
    ],
    "bidirectional": [
        ("\u202aa\u202bb\u202cc\u202dd\u202ee".encode(), "abcde"),
        ("\u2066a\u2067b\u2068c\u2069d".encode(), "abcd"),
        ("kept \u2029 \u202f \u2065 \u206a \u200e \u200f \u200d".encode(), None),
    ],
    "bad utf-8": [
        (b"\xc3", "\ufffd"),
        (b"a\xc3(b", "a\ufffd(b"),
        (b"latin\xe9", "latin\ufffd"),
        (b"\xe2\x82 cut", "\ufffd cut"),
        (b"\xf0\x9f\x98 cut", "\ufffd cut"),
        (b"\xc0\xaf overlong", "\ufffd\ufffd overlong"),
        (b"\xed\xa0\x80 surrogate", "\ufffd\ufffd\ufffd surrogate"),
        (b"\xf5\x80\x80\x80 too big", "\ufffd\ufffd\ufffd\ufffd too big"),
        (b"\x80\xbf alone", "\ufffd\ufffd alone"),
        (b"\x9b bare C1 byte", "\ufffd bare C1 byte"),
    ],
    "telnet": [
        (b"\xff\xfd\x03hello", "hello"),
        (b"he\xff\xfb\x1fllo", "hello"),
        (b"\xff\xfa\x1f\x00\x50\x00\x18\xff\xf0hello", "hello"),
        (b"\xff\xfa\x1f\xff\xff\x00\x18\xff\xf0hello", "hello"),
        (b"\xff\xf1nop\xff\xf6are you there\xff\xf9", "nopare you there"),
        (b"\xff\xecend of file", "end of file"),
        (b"a\xff\xffb", "a\ufffdb"),
        (b"a\xff\xffxb", "a\ufffdxb"),
        (b"a\xffxb", "a\ufffdxb"),
        (b"a\xff\xebb", "a\ufffd\ufffdb"),
        (b"option is ESC \xff\xfb\x1b, gone", "option is ESC , gone"),
        (b"\xff\xfd\xc3\xa9", "\ufffd"),
    ],
    "unfinished telnet": [
        (b"lone\xff", "lone"),
        (b"option\xff\xfd", "option"),
        (b"sub\xff\xfa\x18\x00 to the end", "sub"),
        (b"sub\xff\xfa\x18\xff", "sub"),
    ],
}
# Where none is given, the text is what was sent.
CASES = {
    topic: [(line, line.decode() if text is None else text) for line, text in cases] for topic, cases in CASES.items()
}

BLANKS = [b"", b" ", b"\t \t", b"\r", b"\r\0", b"\0\0", b"\x1b\x07", b"\xff\xf1", b"\xff\xfd", b"\xff"]
BLANKS += ["\u202e \u2069".encode(), "\u3000\u00a0".encode()]
