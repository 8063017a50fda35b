"""Hosts made of Linux namespaces, to try the files of cluster/ on.

Each has its own network, processes, name, home, /tmp, /dev/shm and sshd, and a cable to a bridge that leads nowhere
else. Nothing is started outside of them.

Host 0 is the launcher, where the repository is. All see one folder, /shared. The environment that runs the tests is on
every host, as ~/env; what is installed there stays on the host.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

ROOT = Path(__file__).parents[2]
PLACE, PREFIX = Path("/var/tmp"), "survq-hosts-"
NEEDED = ("ip", "unshare", "nsenter", "sshd", "ssh-keygen", "rsync")
HOME = "/root"
PATH = f"{HOME}/env/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

BOOT = """
set -eu
host=$1 state=$2 environment=$3 python=$4 address=$5
here=$state/$host
mount --make-rprivate /
hostname "host$host"
mount -t overlay overlay -o "lowerdir=$environment,upperdir=$here/upper,workdir=$here/work" "$here/env"
mkdir -p /shared && mount --bind "$state/shared" /shared
in_home=$here/home/${python#/root/}
case $python in /root/*) mkdir -p "$in_home" && mount --bind "$python" "$in_home";; esac
case $environment in /tmp/*) mkdir -p "$here$environment";; esac
mount --rbind "$here/tmp" /tmp && chmod 1777 /tmp && mount --rbind "$here/env" "$environment"
mount --rbind "$here/home" /root
mount -t tmpfs -o size=1g tmpfs /dev/shm
mount -t tmpfs tmpfs /run && mkdir -p /run/sshd /run/lock
mount --bind "$here/hosts" /etc/hosts
cd && mkdir -p .ssh .config/pip && chmod 700 .ssh && cp "$state/id" .ssh/id && cp "$state/id.pub" .ssh/authorized_keys
chmod 600 .ssh/*
ln -sfn "$environment" env
printf '[global]\\nno-index = true\\n[install]\\nno-build-isolation = false\\n' > .config/pip/pip.conf
# Ray would let all go first that runs beside the tests
grep -qs niceness .bashrc || echo 'export RAY_worker_niceness=0' >> .bashrc
[ -e "$here/hostkey" ] || ssh-keygen -q -t ed25519 -N '' -f "$here/hostkey"
[ ! -e "$state/at-boot" ] || bash "$state/at-boot" "$host" > "$here/at-boot.log" 2>&1 || true
touch "$here/booted"
exec env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root "$(command -v sshd)" -D -e -h "$here/hostkey" -f /dev/null \\
  -o ListenAddress="$address" -o PasswordAuthentication=no -o KbdInteractiveAuthentication=no \\
  -o PermitRootLogin=prohibit-password -o UsePAM=no -o PidFile=none -o MaxStartups=100
"""


def missing() -> str | None:
    """Why hosts cannot be made here; None if they can."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "root on Linux is needed"
    if lacking := [name for name in NEEDED if shutil.which(name) is None]:
        return f"{', '.join(lacking)} not installed: apt-get install iproute2 openssh-server rsync"
    if not (Path(sys.prefix) / "bin" / "ray").exists() or sys.prefix.startswith(HOME):
        return f"run the tests from an environment outside of {HOME}"
    try:
        recent = int(version("setuptools").split(".")[0]) >= 77
    except PackageNotFoundError:
        recent = False
    if not recent:
        return "setuptools 77 or newer is needed: pip install -e .[dev]"
    if subprocess.run(["unshare", "-n", "-m", "true"], capture_output=True).returncode:
        return "namespaces are not allowed here"
    return None


class Hosts:
    """`count` hosts and a launcher. `close` ends all of them with all their processes."""

    def __init__(self, count: int):
        remove_those_of_the_dead()
        self.state = Path(tempfile.mkdtemp(prefix=PREFIX, dir=PLACE))
        self._alive = (self.state / "alive").open("w")
        fcntl.flock(self._alive, fcntl.LOCK_EX)  # until this process ends, in whatever way
        self.numbers = range(count + 1)
        self.state.chmod(0o755)
        (self.state / "shared").mkdir()
        self._first: dict[int, subprocess.Popen] = {}  # of each host: the process outside, whose end is the host's
        _run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(self.state / "id"))
        _run("ip", "netns", "add", self._network(0))
        _run("ip", "-n", self._network(0), "link", "add", "br0", "type", "bridge")
        _run("ip", "-n", self._network(0), "addr", "add", f"{self.address(0)}/24", "dev", "br0")
        for link in ("lo", "br0"):
            _run("ip", "-n", self._network(0), "link", "set", link, "up")
        for host in self.numbers[1:]:
            ours, cable = self._network(host), f"cable{host}"
            _run("ip", "netns", "add", ours)
            _run(
                "ip",
                "-n",
                self._network(0),
                "link",
                "add",
                cable,
                "type",
                "veth",
                "peer",
                "name",
                "eth0",
                "netns",
                ours,
            )
            _run("ip", "-n", self._network(0), "link", "set", cable, "master", "br0", "up")
            _run("ip", "-n", ours, "addr", "add", f"{self.address(host)}/24", "dev", "eth0")
            for link in ("lo", "eth0"):
                _run("ip", "-n", ours, "link", "set", link, "up")
        for host in self.numbers:
            for name in ("home", "tmp", "upper", "work", "env"):
                (self.state / str(host) / name).mkdir(parents=True)
            self.name_hosts(host)
            self.boot(host)

    def address(self, host: int) -> str:
        return f"10.77.0.{10 + host}"

    def name_hosts(self, host: int, own: str | None = None) -> None:
        """Write a host's /etc/hosts; `own` is the address of its own name, which on Debian and Ubuntu is 127.0.1.1."""
        names = {f"host{number}": self.address(number) for number in self.numbers} | (
            {f"host{host}": own} if own else {}
        )
        lines = ["127.0.0.1 localhost", *(f"{address} {name}" for name, address in names.items())]
        (self.state / str(host) / "hosts").write_text("\n".join(lines) + "\n")

    def boot(self, host: int) -> None:
        booted = self.state / str(host) / "booted"
        booted.unlink(missing_ok=True)
        arguments = [str(host), str(self.state), sys.prefix, sys.base_prefix, self.address(host)]
        with (self.state / str(host) / "console").open("ab") as console:
            self._first[host] = subprocess.Popen(
                ["ip", "netns", "exec", self._network(host), "unshare", "-p", "-m", "-u", "-i", "-f", "--mount-proc",
                 "--kill-child", "bash", "-c", BOOT, "boot", *arguments],
                stdin=subprocess.DEVNULL, stdout=console, stderr=console, start_new_session=True,
            )  # fmt: skip
        self.wait_for(booted.exists, 30, f"host {host} to boot: {self.state / str(host) / 'console'}")

    def is_on(self, host: int) -> bool:
        return host in self._first

    def pull_the_plug(self, host: int) -> None:
        """All processes of a host end at once. Its disk stays: `boot` starts it again."""
        process = self._first.pop(host)
        process.kill()
        process.wait()

    def cable(self, host: int, *, plugged: bool) -> None:
        _run("ip", "-n", self._network(0), "link", "set", f"cable{host}", "up" if plugged else "down")

    def sent(self, host: int) -> int:
        """Bytes that a host has sent."""
        counter = f"/sys/class/net/cable{host}/statistics/rx_bytes"
        return int(_run("ip", "netns", "exec", self._network(0), "cat", counter).stdout)

    def start(self, host: int, command: str, user: str = "root", **options) -> subprocess.Popen:
        """A command on a host, in a login shell in the home folder of the user."""
        inside = subprocess.check_output(["pgrep", "-P", str(self._first[host].pid)], text=True).split()[0]
        home = HOME if user == "root" else f"/shared/{user}"
        words = ["env", "-i", f"HOME={home}", f"USER={user}", f"LOGNAME={user}", "LANG=C.UTF-8", "TERM=dumb",
                 "SHELL=/bin/bash", f"PATH={PATH.replace(HOME + '/env', sys.prefix)}", "RAY_USAGE_STATS_ENABLED=0",
                 "RAY_worker_niceness=0", "bash", "-c", f"cd; {command}"]  # fmt: skip
        words = words if user == "root" else ["runuser", "-u", user, "--", *words]
        streams = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        enter = ["nsenter", "-t", inside, "-m", "-u", "-i", "-n", "-p", "--"]
        return subprocess.Popen([*enter, *words], **streams | {"errors": "replace"} | options)

    def run(self, host: int, command: str, timeout: float = 120, user: str = "root") -> subprocess.CompletedProcess:
        """A command on a host; its standard error is part of its output."""
        process = self.start(host, command, user)
        try:
            output, _ = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            process.kill()
            output, _ = process.communicate()
            output += f"\n(still running after {timeout:g} seconds)"
        return subprocess.CompletedProcess(command, process.returncode, output.replace("\r", ""))

    def wait_for(self, happened, seconds: float, what: str) -> None:
        deadline = time.monotonic() + seconds
        while not happened():
            if time.monotonic() > deadline:
                raise TimeoutError(f"waited {seconds:g} seconds for {what}")
            time.sleep(0.2)

    def close(self) -> None:
        for host in list(self._first):
            self.pull_the_plug(host)
        _remove(self.state)
        self._alive.close()

    def _network(self, host: int) -> str:
        return f"{self.state.name}-{host}"


def remove_those_of_the_dead() -> None:
    """End and remove the hosts of test sessions that were killed."""
    for state in PLACE.glob(f"{PREFIX}*"):
        with suppress(OSError), (state / "alive").open("a") as alive:
            fcntl.flock(alive, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _remove(state)


def _remove(state: Path) -> None:
    for network in Path("/run/netns").glob(f"{state.name}-*"):
        for process in _run("ip", "netns", "pids", network.name).stdout.split():
            with suppress(ProcessLookupError):  # it may have ended with its parent
                os.kill(int(process), signal.SIGKILL)
        subprocess.run(["ip", "netns", "del", network.name], capture_output=True)
    shutil.rmtree(state, ignore_errors=True)


def _run(*command: str) -> subprocess.CompletedProcess:
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stderr}"
    return done


def copy_repository(destination: Path, names: Sequence[str] = ("survq", "studies", "cluster")) -> None:
    """The working tree as it is."""
    for name in names:
        shutil.copytree(ROOT / name, destination / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, destination / name)
