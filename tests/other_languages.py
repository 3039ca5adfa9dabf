"""Right servers in other languages (tests/programs/), and wrong ones: those with some of their text changed."""

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent / "programs"
RIGHT = sorted(path.name for path in FOLDER.iterdir())

# What builds it, with {source} and {folder}, and how it is started then. Go's caches are kept, and shared.
LANGUAGES = {
    ".c": ("gcc", "gcc -O1 -o {folder}/chat {source}", "{folder}/chat {port}"),
    ".js": ("node", "", "node {source} {port}"),
    ".java": ("javac", "javac -nowarn -d {folder} {source}", "java -Xmx64m -cp {folder} Chat {port}"),
    ".go": ("go", "go build -o {folder}/chat {source}", "{folder}/chat {port}"),
}


def program(name):
    """The name of a program that a test takes, or a skip; where all must be there gcc is one of them (see .ci/run)."""
    if not shutil.which(name):
        if name == "gcc" and os.environ.get("CHAT_ALL_PROGRAMS"):
            pytest.fail(f"there is no {name}")
        pytest.skip(f"{name} is not installed")
    return name


def built(name, folder, changes=None):
    """The command that starts one of them, with {port}. What has to be built is built in the folder; or skip.

    `changes`: what in its text is to be replaced, and by what; each of these is there once.
    """
    source = FOLDER / name
    needs, build, command = LANGUAGES[source.suffix]
    program(needs)
    if source.suffix == ".c" and sys.platform != "linux":
        pytest.skip("it waits with epoll, which only Linux has")
    if changes:
        text = source.read_text()
        for old, new in changes.items():
            assert text.count(old) == 1, f"not once in {name}: {old}"
            text = text.replace(old, new)
        source = folder / name
        source.write_text(text)
    values = {"source": shlex.quote(str(source)), "folder": shlex.quote(str(folder)), "port": "{port}"}
    if build:
        done = subprocess.run(shlex.split(build.format(**values)), cwd=folder, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    return command.format(**values)


NO_DELAY = "setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);"

# Wrong ones: of which right one, and what is changed in it.
WRONG = {
    "c_dies_of_a_broken_pipe": ("chat.c", {"signal(SIGPIPE, SIG_IGN);": ""}),
    "c_ends_with_an_error": ("chat.c", {'note("", "bye", -1);\n    return 0;': 'note("", "bye", -1);\n    return 1;'}),
    "c_forgets_nodelay": ("chat.c", {NO_DELAY: ""}),
    "c_cannot_have_its_port_again": ("chat.c", {"setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);": ""}),
    "c_has_a_fault_in_memory": (
        "chat.c",
        {"if (missing || *at < 0xC2 ": "if (missing) *(volatile int *)16 = 1;\n    if (missing || *at < 0xC2 "},
    ),
    "c_leaves_a_child": (
        "chat.c",
        {"epoll = epoll_create1(0);": "epoll = epoll_create1(0); if (!fork()) { setsid(); pause(); }"},
    ),
    "c_listens_on_all": ("chat.c", {"INADDR_LOOPBACK": "INADDR_ANY"}),
    "c_never_flushes": ("chat.c", {"write(2, line, length) < 0": "!fwrite(line, 1, length, stdout)"}),
    "c_sends_in_two_pieces": (
        "chat.c",
        {NO_DELAY: "", "tell(other, said, count);": "tell(other, said, 10), tell(other, said + 10, count - 10);"},
    ),
    "c_sends_the_nul": ("chat.c", {"said[count++] = '\\n';": "said[count++] = '\\n', said[count++] = 0;"}),
    "js_counts_characters": (
        "chat.js",
        {"if (end >= MAX_MESSAGE)": "if (`${rest.subarray(0, end)}`.length >= MAX_MESSAGE)"},
    ),
    "js_decodes_pieces": (
        "chat.js",
        {"(data) => receive(socket, data)": "(data) => receive(socket, Buffer.from(String(data)))"},
    ),
    "js_dies_of_a_reset": ("chat.js", {'socket.on("error", (error) => leave(socket, `dropped: ${error.code}`));': ""}),
    "js_goes_on_after_sigterm": ("chat.js", {'process.on("SIGTERM", stop);': ""}),
    "js_keeps_all_that_is_unsent": ("chat.js", {"const MAX_UNSENT = 1 << 20;": "const MAX_UNSENT = 1e12;"}),
    "js_listens_on_all": ("chat.js", {'host: "127.0.0.1", ': 'host: "0.0.0.0", '}),
    "js_names_are_mapped": ("chat.js", {'host: "127.0.0.1", ': 'host: "::ffff:127.0.0.1", '}),
    "js_says_nothing": ("chat.js", {"fs.writeSync(2, `${new Date()": "String(`${new Date()"}),
    "java_ends_lines_as_on_windows": ("Chat.java", {'text + "\\n")': 'text + "\\r\\n")'}),
    "java_ends_of_sigterm": ("Chat.java", {'new String[] {"INT", "TERM"}': 'new String[] {"INT"}'}),
    "java_keeps_all_that_is_unsent": (
        "Chat.java",
        {"client.last - client.first > MAX_UNSENT": "client.last < client.first"},
    ),
    "java_listens_on_all": (
        "Chat.java",
        {'new InetSocketAddress(InetAddress.getByName("127.0.0.1"), port)': "new InetSocketAddress(port)"},
    ),
    "java_never_closes": ("Chat.java", {"            client.channel.close();": "            client.key.cancel();"}),
    "java_shows_an_address_in_its_own_way": (
        "Chat.java",
        {'address.getAddress().getHostAddress() + ":" + address.getPort()': "address.toString()"},
    ),
}


def built_wrong(name, folder):
    """The command that starts a wrong one."""
    source, changes = WRONG[name]
    return built(source, folder, changes)
