"""A real Slurm on the hosts: munge on each, slurmctld on host 1, slurmd on all, and a user with a home on /shared.

CPUs and memory are told to Slurm, not limited: there are no control groups in here.
"""

from __future__ import annotations

import os
import shutil
import time

from hosts import Hosts, copy_repository

NEEDED = ("slurmctld", "slurmd", "munged", "setpriv", "runuser")
USER, NUMBER = "alice", 4242

CONFIG = """
ClusterName=survq
SlurmctldHost=host1({first})
SlurmUser=root
AuthType=auth/munge
StateSaveLocation=/run/slurmctld
SlurmdSpoolDir=/run/slurmd
SlurmctldPidFile=/run/slurmctld.pid
SlurmdPidFile=/run/slurmd.pid
SlurmctldLogFile=/run/slurmctld.log
SlurmdLogFile=/run/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
DefMemPerCPU=2000
ReturnToService=2
MpiDefault=none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
KillWait=30
MinJobAge=3600
PropagateResourceLimits=NONE
{nodes}
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE OverTimeLimit=0 State=UP
"""

START = """
set -eu
here={state}/$1
cp /etc/passwd /etc/group "$here/"
echo '{user}:x:{number}:{number}::/shared/{user}:/bin/bash' >> "$here/passwd"
echo '{user}:x:{number}:' >> "$here/group"
mount --bind "$here/passwd" /etc/passwd
mount --bind "$here/group" /etc/group
mkdir -p "$here/slurm" "$here/munge-log" "$here/munge-lib" "$here/munge-etc" /run/munge /run/slurmd /run/slurmctld
cp {state}/slurm.conf "$here/slurm/slurm.conf"
echo CgroupPlugin=cgroup/v1 > "$here/slurm/cgroup.conf"
cp {state}/munge.key "$here/munge-etc/munge.key"
mount --bind "$here/slurm" /etc/slurm
mount --bind "$here/munge-log" /var/log/munge
mount --bind "$here/munge-lib" /var/lib/munge
mount --bind "$here/munge-etc" /etc/munge
# slurmd does not start without
mount -t tmpfs none /sys/fs/cgroup && mkdir /sys/fs/cgroup/freezer
mount -t cgroup -o freezer cgroup /sys/fs/cgroup/freezer
chown -R munge /run/munge /var/log/munge /var/lib/munge /etc/munge
chmod 700 /etc/munge /var/log/munge /var/lib/munge && chmod 400 /etc/munge/munge.key && chmod 711 /root
setpriv --reuid munge --regid munge --clear-groups /usr/sbin/munged
[ "$1" != 1 ] || slurmctld
for attempt in 1 2 3 4 5; do slurmd -N "host$1" && break; sleep 1; done
"""


def missing() -> str | None:
    """Why there can be no Slurm here; None if there can."""
    lacking = [name for name in NEEDED if shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin") is None]
    return (
        f"{', '.join(lacking)} not installed: apt-get install slurmctld slurmd slurm-client munge" if lacking else None
    )


class Slurm:
    """A Slurm of 2 CPUs and 8 GB a host, whose user has survq at ~/survq."""

    def __init__(self, hosts: Hosts):
        self.hosts = hosts
        nodes = [f"NodeName=host{n} NodeAddr={hosts.address(n)} CPUs=2 RealMemory=8000 State=UNKNOWN" for n in (1, 2)]
        (hosts.state / "slurm.conf").write_text(CONFIG.format(first=hosts.address(1), nodes="\n".join(nodes)))
        (hosts.state / "munge.key").write_bytes(os.urandom(128))
        start = START.format(state=hosts.state, user=USER, number=NUMBER)
        (hosts.state / "start-slurm").write_text(start)
        self.home = hosts.state / "shared" / USER
        copy_repository(self.home / "survq")
        hosts.run(0, f"chown -R {NUMBER}:{NUMBER} /shared/{USER} && chmod -R a+rX /shared/data")
        for host in (1, 2):
            done = hosts.run(host, f"bash {hosts.state}/start-slurm {host}")
            assert done.returncode == 0, done.stdout
            done = hosts.run(host, f"pip install -q --no-deps -e /shared/{USER}/survq")
            assert done.returncode == 0, done.stdout
        hosts.wait_for(lambda: self.run("sinfo -h -o %D%t") == "2idle", 60, "Slurm to start")

    def run(self, command: str, timeout: float = 60) -> str:
        """What a command of the user prints, on host 1 in ~/survq."""
        environment = self.hosts.run(1, "readlink -f ~/env").stdout.strip()
        return self.hosts.run(
            1, f"export PATH={environment}/bin:$PATH; cd survq; {command}", timeout, USER
        ).stdout.strip()

    def submit(self, arguments: str, options: str = "") -> int:
        said = self.run(
            f"SURVQ_ENV= sbatch --parsable --cpus-per-task=1 --mem=3000 {options} cluster/slurm.sh {arguments}"
        )
        assert said.isdecimal(), said
        return int(said)

    def state(self, job: int) -> str:
        """Such as "COMPLETED 0:0"."""
        said = self.run(f"scontrol -o show job {job}")
        words = dict(word.partition("=")[::2] for word in said.split())
        return f"{words.get('JobState')} {words.get('ExitCode')}"

    def log(self, job: int) -> str:
        file = self.home / "survq" / f"survq-{job}.log"
        return file.read_text() if file.exists() else ""

    def until(self, job: int, text: str, seconds: float = 500) -> None:
        try:
            self.hosts.wait_for(lambda: text in self.log(job), seconds, f"{text!r} in the log of the job")
        except TimeoutError as error:
            raise TimeoutError(f"{error}; {self.state(job)}, {self.log(job)}") from error

    def ended(self, job: int, seconds: float = 500) -> str:
        """Its last state."""
        deadline = time.monotonic() + seconds
        while (state := self.state(job)).split()[0] in ("PENDING", "RUNNING", "COMPLETING", "CONFIGURING"):
            assert time.monotonic() < deadline, f"{state}: {self.log(job)}"
            time.sleep(1)
        return state

    def left_behind(self, job: int) -> list[str]:
        """Files and processes of a job that has ended."""
        found = []
        for host in (1, 2):
            found += self.hosts.run(host, f"ls -d /tmp/survq-{job}; pgrep -af /tmp/survq-{job}/").stdout.splitlines()
        return [line for line in found if "No such file" not in line]
