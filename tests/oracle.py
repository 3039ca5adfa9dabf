"""What the others must hear of a client that sends these bytes: the contract, written a second time.

Slowly, byte by byte, as state machines, and sharing no idea with the servers (which search and substitute),
so that the two are unlikely to be wrong in the same way.
"""

LF, SE, IP, SB, WILL, DONT, IAC = 0x0A, 0xF0, 0xF4, 0xFA, 0xFB, 0xFE, 0xFF
COMMANDS = range(0xEC, SB)
MAX_MESSAGE = 4096
REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
# A line that begins with a slash may be a command; of Ctrl-C a line is the end; IAC IAC SE can be read in two ways.
UNCLEAR = [b"/", b"\xff\xf4", b"\xff\xff\xf0"]


def is_clear(data):
    """Whether the contract leaves no doubt of what is heard, from any of our servers."""
    return not any(mark in data for mark in UNCLEAR)


def hear(stream):
    """What is heard of a client that sends the bytes and closes, as a list of texts."""
    texts, line = [], bytearray()
    for byte in stream:
        line.append(byte)
        if line[-2:] == bytes([IAC, IP]):
            return texts
        if len(line) > MAX_MESSAGE:
            return texts
        if byte == LF:
            texts.append(clean(line[:-1]))
            line.clear()
    texts.append(clean(line))
    return [text for text in texts if not blank(text)]


def clean(line):
    """The text of a line, given without its newline."""
    return "".join(character for character in decode(without_telnet(line)) if is_safe(character))


def blank(text):
    """Whether there is nothing to see in it."""
    return all(character.isspace() for character in text)


def is_safe(character):
    """Whether it leaves the reader's terminal alone."""
    code = ord(character)
    control = (code < 0x20 and character != "\t") or 0x7F <= code < 0xA0
    bidirectional = 0x202A <= code <= 0x202E or 0x2066 <= code <= 0x2069
    return not (control or bidirectional)


def without_telnet(line):
    """The bytes of a line that are not telnet's commands."""
    data, state = bytearray(), "data"
    for byte in line:
        if state == "data":
            if byte == IAC:
                state = "command"
            else:
                data.append(byte)
        elif state == "command":
            state = "data"
            if byte == SB:
                state = "subnegotiation"
            elif WILL <= byte <= DONT:
                state = "option"
            elif byte == IAC:
                data.append(IAC)
            elif byte not in COMMANDS:
                data += bytes([IAC, byte])
        elif state == "option":
            state = "data"
        elif state == "subnegotiation":
            if byte == IAC:
                state = "command in subnegotiation"
        elif byte == SE:  # a command in a subnegotiation
            state = "data"
        else:
            state = "subnegotiation"
    return bytes(data)


def _following(lead):
    """How many bytes follow this first one of a UTF-8 character, and which may be the next."""
    if 0xC2 <= lead <= 0xDF:
        return 1, range(0x80, 0xC0)
    if 0xE0 <= lead <= 0xEF:
        return 2, {0xE0: range(0xA0, 0xC0), 0xED: range(0x80, 0xA0)}.get(lead, range(0x80, 0xC0))
    if 0xF0 <= lead <= 0xF4:
        return 3, {0xF0: range(0x90, 0xC0), 0xF4: range(0x80, 0x90)}.get(lead, range(0x80, 0xC0))
    return 0, range(0)


def decode(data):
    """UTF-8; as long a piece as could have begun a character becomes one U+FFFD (Unicode, section 3.9)."""
    text, position = [], 0
    while position < len(data):
        lead, begun = data[position], position
        position += 1
        if lead < 0x80:
            text.append(chr(lead))
            continue
        missing, allowed = _following(lead)
        code = lead & (0x7F >> (missing + 1))
        valid = missing > 0
        while missing and position < len(data) and data[position] in allowed:
            code = code << 6 | data[position] & 0x3F
            allowed = range(0x80, 0xC0)
            missing -= 1
            position += 1
        text.append(chr(code) if valid and not missing else REPLACEMENT)
        assert position > begun
    return "".join(text)


def collapse(text):
    """Each run of U+FFFD as one: how many stand for bad bytes differs between languages."""
    while REPLACEMENT * 2 in text:
        text = text.replace(REPLACEMENT * 2, REPLACEMENT)
    return text
