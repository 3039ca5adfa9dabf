"""openssl as the tests need it: certificates of every kind, good and bad, and commands to its s_client and s_server."""

import dataclasses
import fcntl
import os
import shutil
import subprocess
import termios
from pathlib import Path

from harness import wait_until

HERE = "DNS:localhost,IP:127.0.0.1,IP:::1"

SETTINGS = """
[ca]
default_ca = here
[here]
database = {folder}/index
rand_serial = yes
new_certs_dir = {folder}
default_md = sha256
policy = any
unique_subject = no
[any]
commonName = supplied
[authority]
basicConstraints = critical,CA:TRUE
keyUsage = critical,keyCertSign,digitalSignature
subjectKeyIdentifier = hash
authorityKeyIdentifier = keyid:always
subjectAltName = {names}
[server]
basicConstraints = critical,CA:FALSE
subjectKeyIdentifier = hash
authorityKeyIdentifier = keyid:always
subjectAltName = {names}
"""


@dataclasses.dataclass
class Certificate:
    """The paths of a certificate and of its key."""

    cert: Path
    key: Path

    @property
    def arguments(self):
        """With which a server is started to use it."""
        return "--cert", str(self.cert), "--key", str(self.key)

    def take(self, other):
        """Become a copy of another one, as a program that renews certificates does it."""
        for source, target in ((other.cert, self.cert), (other.key, self.key)):
            shutil.copy(source, f"{target}.new")
            os.replace(f"{target}.new", target)


def openssl(*words):
    """Run openssl, and return what it prints."""
    result = subprocess.run(["openssl", *map(str, words)], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return result.stdout


def make(folder, name, *, names=HERE, by=None, kind="", start="20200101000000Z", end="20491231235959Z"):
    """Make a certificate for these names.

    `by`: signed with this one, and not with itself; `kind`: "authority" for one with which others may be signed.
    """
    files = folder / f"{name}-files"
    files.mkdir()
    (files / "index").touch()
    settings = files / "settings"
    settings.write_text(SETTINGS.format(folder=files, names=names))
    made = Certificate(folder / f"{name}.pem", folder / f"{name}.key")
    request = files / "request"
    curve = "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"
    openssl("req", "-new", *curve, "-subj", f"/CN={name}", "-keyout", made.key, "-out", request)
    signed = ("-cert", by.cert, "-keyfile", by.key) if by else ("-selfsign", "-keyfile", made.key)
    kind = kind or ("server" if by else "authority")
    dates = "-startdate", start, "-enddate", end
    openssl(
        "ca",
        "-batch",
        "-notext",
        "-config",
        settings,
        "-extensions",
        kind,
        *signed,
        *dates,
        "-in",
        request,
        "-out",
        made.cert,
    )
    return made


def tell(process, data):
    """Write to openssl's standard input, and wait until it is read: K is a command only where a read begins."""
    process.popen.stdin.write(data)

    def is_read():
        unread = fcntl.ioctl(process.popen.stdin, termios.FIONREAD, bytes(4))
        return unread == bytes(4) or not process.running

    wait_until(is_read)
