"""cluster/local.yaml on two hosts: the card's command, and what happens to hosts, connections and keys in the meantime.

    pytest -m cluster tests/cluster        # root; nothing is started outside of the hosts

Each test begins with both hosts in the cluster.
"""

import subprocess
import time
from pathlib import Path

import pytest
from cluster_studies import FLAGS, SCRIPT, Started, both_up, reports, same, submit, up


def results(hosts, name):
    """A results folder in the home of the head."""
    return hosts.state / "1" / "home" / name


def test_the_card_s_command_without_data(given_machines):
    """The data of the demo lie on the head only."""
    study = submit(given_machines, "demo", "--epochs 2")
    study.until("ray on 2 nodes: 2 CPUs")
    trained = False
    while study.process.poll() is None:
        trained = trained or "ray::ImplicitFunc" in given_machines.run(2, "ps axo args").stdout
        time.sleep(0.5)
    output = study.ended()
    assert "Table 3" in output
    assert trained, f"the second host was idle: {output}"


def test_with_a_folder_that_both_see_all_is_as_on_one_host(given_machines, alone):
    study = submit(given_machines, "both")
    assert "ray on 2 nodes: 2 CPUs" in study.ended()
    assert same(results(given_machines, "both"), alone) == 5


def test_folds_over_hosts_that_are_called_127_0_1_1(given_machines, alone):
    """As Debian and Ubuntu call themselves."""
    for host in (1, 2):
        given_machines.name_hosts(host, own="127.0.1.1")
    study = submit(given_machines, "spread", f"{FLAGS} --workers-per-trial 2")
    assert "2 workers each" in study.ended()
    for host in (1, 2):
        given_machines.name_hosts(host)
    assert same(results(given_machines, "spread"), alone) == 5


def test_a_cut_cable_costs_time_only(given_machines, alone):
    """The host goes on behind it, and nobody hears of it."""
    study = submit(given_machines, "cut")
    study.until("1 of 5 done")
    given_machines.cable(2, plugged=False)
    output = study.ended()
    assert same(results(given_machines, "cut"), alone) == 5
    assert "Traceback" not in output


def test_a_lost_host_costs_time_only(given_machines, alone):
    study = submit(given_machines, "lost-host")
    study.until("1 of 5 done")
    given_machines.pull_the_plug(2)
    output = study.ended()
    assert same(results(given_machines, "lost-host"), alone) == 5
    assert "Traceback" not in output


def test_a_study_waits_for_the_hosts_that_belong_to_it(given_machines, alone):
    """Host 2 is off when the study starts."""
    given_machines.pull_the_plug(2)
    given_machines.wait_for(lambda: not both_up(given_machines), 120, "the loss to be noticed")
    study = submit(given_machines, "waiting")
    study.until("ray: waiting for 1 of 2 nodes")
    given_machines.boot(2)  # Ray on the head starts it there, as soon as ssh answers
    assert "ray on 2 nodes: 2 CPUs" in study.ended()
    assert same(results(given_machines, "waiting"), alone) == 5


def test_a_lost_head_is_continued_by_the_same_command(given_machines, alone):
    study = submit(given_machines, "lost-head")
    study.until("1 of 5 done")
    given_machines.pull_the_plug(1)
    study.process.wait(120)
    before = reports(results(given_machines, "lost-head"))
    given_machines.boot(1)
    up(given_machines)
    assert "stored" in submit(given_machines, "lost-head").ended()
    assert before and before.items() <= reports(results(given_machines, "lost-head")).items()
    assert same(results(given_machines, "lost-head"), alone) == 5


def test_a_dropped_connection_is_continued_by_the_same_command(given_machines, alone):
    study = submit(given_machines, "dropped")
    study.until("1 of 5 done")
    given_machines.run(0, "pkill -KILL -x ssh")
    assert study.process.wait(60) != 0
    assert "stored" in submit(given_machines, "dropped").ended()
    assert same(results(given_machines, "dropped"), alone) == 5


def test_with_tmux_a_study_does_not_need_the_connection(given_machines, alone):
    submit(given_machines, "tmux", how="--tmux").ended()
    last = results(given_machines, "tmux") / "query_counts" / "tables" / "differences.csv"
    given_machines.wait_for(last.exists, 500, "the study to end")
    assert same(results(given_machines, "tmux"), alone) == 5


def test_a_study_as_a_job_is_as_on_one_host(given_machines, alone):
    """The commands of the README. Whoever has not the token is refused."""
    done = given_machines.run(0, f"cd checkout && ray rsync-up cluster/local.yaml {SCRIPT} '~/'")
    assert done.returncode == 0, done.stdout
    given_machines.start(0, "cd checkout && exec ray dashboard cluster/local.yaml", stdout=subprocess.DEVNULL)
    given_machines.run(0, "until (: > /dev/tcp/localhost/8265) 2> /dev/null; do sleep 1; done")
    job = f"ray job submit --address http://localhost:8265 -- python query_counts.py {FLAGS} --results job"
    refused = given_machines.run(0, f"RAY_AUTH_MODE=disabled {job}")
    assert refused.returncode != 0 and "Authentication required" in refused.stdout, refused.stdout
    study = Started(given_machines.start(0, f"RAY_AUTH_MODE=token {job}"))
    assert "ray on 2 nodes: 2 CPUs" in study.ended()
    assert same(results(given_machines, "job"), alone) == 5


def test_whoever_has_not_the_token_is_refused(given_machines):
    join = f"import ray\nray.init('{given_machines.address(1)}:6379', logging_level=50)\nprint('JOINED')"
    (given_machines.state / "shared" / "join.py").write_text(join)
    for token, joined in (("RAY_AUTH_MODE=disabled", False), ("RAY_AUTH_TOKEN=" + 64 * "a", False), ("", True)):
        done = given_machines.run(2, f"RAY_AUTH_MODE=token {token} timeout 60 python /shared/join.py")
        assert ("JOINED" in done.stdout) == joined, (token, done.stdout)
    dashboard = given_machines.run(0, f"echo > /dev/tcp/{given_machines.address(1)}/8265")
    assert "refused" in dashboard.stdout, "the dashboard is open to others"


CANARY = "canary-5b1e"


@pytest.fixture(scope="module")
def bucket(local_cluster):
    """The address of a bucket with the data; what reads it without the key is refused."""
    (local_cluster.state / "shared" / "s3_server.py").write_text(Path(__file__).with_name("s3_server.py").read_text())
    address = local_cluster.address(0)
    command = f"exec python /shared/s3_server.py /shared {address} 5000 /shared/requests"
    server = local_cluster.start(0, command, stdout=subprocess.DEVNULL)
    for host in (0, 1, 2):
        told = f"AWS_ENDPOINT_URL_S3=http://{address}:5000 AWS_DEFAULT_REGION=us-east-1 AWS_EC2_METADATA_DISABLED=true"
        local_cluster.run(host, f"echo export {told} >> ~/.bashrc")
    yield "s3://bucket/data"
    server.kill()


KEYS = f"AWS_ACCESS_KEY_ID=reader AWS_SECRET_ACCESS_KEY={CANARY} AWS_SESSION_TOKEN={CANARY}"


def test_keys_that_only_the_study_has_are_not_enough(given_machines, bucket):
    up(given_machines)
    command = f". ~/.bashrc; {KEYS} python checkout/{SCRIPT} --data {bucket} --results keyless"
    output = Started(given_machines.start(1, command)).ended(65)
    assert "ACCESS_DENIED" in output and "give every node the right to read it" in output
    assert "Traceback" not in output and CANARY not in output


def test_keys_in_the_environment_of_ray_are_in_no_log_and_no_result(given_machines, bucket, alone):
    for host in (1, 2):
        given_machines.run(host, f"echo export {KEYS} >> ~/.bashrc")
    up(given_machines)
    log = given_machines.state / "shared" / "requests"
    log.write_text("")
    output = submit(given_machines, "bucket", f"--data {bucket} --epochs 2").ended()
    assert same(results(given_machines, "bucket"), alone) == 5 and CANARY not in output
    slides = len([*(given_machines.state / "shared" / "data").glob("*/features/*.parquet")])
    asked = sum("/features/" in line and ".parquet" in line for line in log.read_text().splitlines())
    assert asked == 4 * slides, "two requests for the index of a slide and two for its features"
    for host in given_machines.numbers:
        found = given_machines.run(host, f"grep -rls --exclude=.bashrc {CANARY} /tmp ~")
        assert found.stdout == "", "the key stands in these files"
    logs = given_machines.run(2, "ls /tmp/ray/session_latest/logs").stdout.split()
    assert len(logs) > 10, "no logs: the test is broken"
