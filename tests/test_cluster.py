"""cluster/: Ray and EC2 accept the configuration, studies get their flags unchanged, others have no access.

No cluster is started and AWS is not contacted: these tests do not show whether the image exists and the roles suffice.
"""

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import tyro
import yaml

from survq.ray_session import ray  # noqa: F401  (sets Ray's environment variables before importing it)
from survq.settings import StudySettings

# isort: split
from ray.autoscaler._private import command_runner, commands
from ray.autoscaler._private.util import prepare_config, validate_config

ROOT = Path(__file__).resolve().parents[1]
TEXT = (ROOT / "cluster" / "cluster.yaml").read_text()


@pytest.fixture(scope="module")
def config() -> dict:
    """As completed by `ray up` before it contacts AWS."""
    config = prepare_config(yaml.safe_load(TEXT))
    validate_config(config)
    return config


@pytest.fixture(scope="module")
def nodes(config) -> dict[str, dict]:
    return {name: kind["node_config"] for name, kind in config["available_node_types"].items()}


@pytest.fixture(scope="module")
def stack() -> dict:
    """cluster/aws.yaml; `!Ref X` and the like read as the plain X."""

    class Loader(yaml.SafeLoader): ...

    def plain(loader: yaml.SafeLoader, tag: str, node: yaml.Node) -> str:
        assert isinstance(node, yaml.ScalarNode)
        return loader.construct_scalar(node)

    Loader.add_multi_constructor("!", plain)
    return yaml.load((ROOT / "cluster" / "aws.yaml").read_text(), Loader)


@pytest.fixture
def shell(config, tmp_path):
    """shell(command): run it as Ray runs it on a node, in a home folder after the setup commands without network."""

    def run(command: str) -> str:
        words = command_runner._with_interactive(command)
        environment = {"HOME": str(tmp_path), "PATH": "/usr/bin:/bin"}
        done = subprocess.run(
            ["sh", "-c", " ".join(words)], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    (tmp_path / ".bashrc").touch()
    (tmp_path / "env" / "bin").mkdir(parents=True)
    (tmp_path / "env" / "bin" / "python").symlink_to(sys.executable)
    (tmp_path / ".ray").mkdir(mode=0o755)
    (tmp_path / ".ray" / "auth_token").write_text("not a secret")
    (tmp_path / ".ray" / "auth_token").chmod(0o644)
    for command in config["setup_commands"] * 2:  # on workers Ray runs them twice
        if "venv" not in command:
            run(command)
    return run


@pytest.fixture(scope="module")
def local() -> dict:
    """cluster/local.yaml, as completed by `ray up`."""
    given = yaml.safe_load((ROOT / "cluster" / "local.yaml").read_text())
    given["provider"] |= {"head_ip": "10.0.0.1", "worker_ips": ["10.0.0.2"]}
    config = prepare_config(given)
    validate_config(config)
    return config


def test_given_machines_are_started_as_launched_ones_are(local, config):
    """The same files, the same token, the dashboard on the loopback interface; autoscaler v2 starts none.

    Not from the lock: they have a Python of their own, and maybe no way to PyPI. Workers get the head's versions.
    """
    locks = {f"~/survq-source/{name}.lock" for name in ("build", "requirements")}
    assert {k: v for k, v in config["file_mounts"].items() if k not in locks} == local["file_mounts"]
    assert local["rsync_exclude"] == config["rsync_exclude"]
    assert any("-c ~/versions.txt" in command for command in local["worker_setup_commands"])
    assert local["cluster_synced_files"] == ["~/versions.txt"]
    assert f"ray=={ray_of_the_lock()}" in local["head_setup_commands"][-2]
    for commands_ in local["head_start_ray_commands"], local["worker_start_ray_commands"]:
        assert commands_[0] == "ray stop" and "RAY_AUTH_MODE=token ray start" in commands_[-1]
    head = local["head_start_ray_commands"][-1]
    assert "RAY_enable_autoscaler_v2=0" in head and "--dashboard-host=127.0.0.1" in head
    words = json.dumps({"provider": local["provider"]})  # as on the head
    address = re.search(r"--node-ip-address=\$\((.*)~/ray_bootstrap_config.yaml (.*)\)", head)
    found = subprocess.run(["sh", "-c", f"{address[1]} {address[2]}"], input=words, capture_output=True, text=True)
    assert found.stdout == "10.0.0.1\n"


def test_the_setup_of_given_machines_can_be_repeated(local, tmp_path):
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray" / "auth_token").touch()
    (tmp_path / "env" / "bin").mkdir(parents=True)
    (tmp_path / "env" / "bin" / "python").symlink_to(sys.executable)
    for command in local["setup_commands"] * 3:
        environment = {"HOME": str(tmp_path), "PATH": "/usr/bin:/bin"}
        subprocess.run(["bash", "-c", f"touch ~/.bashrc; {command}"], env=environment, check=True)
    (line,) = (tmp_path / ".bashrc").read_text().splitlines()
    told = subprocess.check_output(["bash", "-c", f"{line}\necho $RAY_ADDRESS $RAY_AUTH_MODE"], text=True)
    assert told.split() == ["auto", "token"]


def test_the_slurm_script_is_valid_and_states_a_token():
    script = ROOT / "cluster" / "slurm.sh"
    subprocess.run(["bash", "-n", str(script)], check=True)
    text = script.read_text()
    assert "RAY_AUTH_MODE=token" in text and "/dev/urandom" in text and "--signal=B:USR1@300 --requeue" in text
    assert "ray stop" not in re.sub(r"#.*", "", text), "it would end Ray of other jobs"


def test_the_fields_of_the_kubernetes_job_are_those_of_kuberay():
    """KubeRay's reference of RayJob, read by hand: no Kubernetes was at hand."""
    text = (ROOT / "cluster" / "kuberay.yaml").read_text()
    job = yaml.safe_load(text)
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob") and "NOT PROVED" in text
    spec = job["spec"]
    assert set(spec) <= {
        *("entrypoint", "submissionMode", "backoffLimit", "shutdownAfterJobFinishes", "ttlSecondsAfterFinished"),
        *("activeDeadlineSeconds", "runtimeEnvYAML", "submitterPodTemplate", "rayClusterSpec"),
    }
    assert spec["shutdownAfterJobFinishes"] is True, "the cluster would stay, and cost"
    cluster = spec["rayClusterSpec"]
    assert set(cluster) == {"rayVersion", "authOptions", "headGroupSpec", "workerGroupSpecs"}
    assert cluster["authOptions"] == {"mode": "token"} and cluster["rayVersion"] == ray_of_the_lock()
    assert f"ray:{cluster['rayVersion']}-py312" in (ROOT / "cluster/Dockerfile").read_text()
    (workers,) = cluster["workerGroupSpecs"]
    assert set(workers) == {"groupName", "replicas", "minReplicas", "maxReplicas", "rayStartParams", "template"}
    for pod in cluster["headGroupSpec"]["template"]["spec"], workers["template"]["spec"]:
        mounted = {mount["name"] for container in pod["containers"] for mount in container["volumeMounts"]}
        assert mounted == {volume["name"] for volume in pod["volumes"]}
    limits = workers["template"]["spec"]["containers"][0]["resources"]["limits"]
    assert limits["nvidia.com/gpu"] == "8"
    assert all(isinstance(value, str) for value in workers["rayStartParams"].values())


def test_the_head_has_no_cpus_and_the_workers_have_gpus(config):
    head, worker = config["available_node_types"]["head"], config["available_node_types"]["a100"]
    assert config["head_node_type"] == "head" and head["resources"] == {"CPU": 0} and head["max_workers"] == 0
    assert worker["resources"]["GPU"] == 8
    assert 0 <= worker["min_workers"] <= worker["max_workers"] == config["max_workers"] <= 4
    assert 0 < config["idle_timeout_minutes"] <= 60


def test_the_node_configuration_is_valid_for_ec2(nodes):
    session = pytest.importorskip("botocore.session")  # pip install survq[cluster]
    from botocore.validate import ParamValidator

    request = session.get_session().get_service_model("ec2").operation_model("RunInstances").input_shape
    for node in nodes.values():
        assert ParamValidator().validate({**node, "MinCount": 1, "MaxCount": 1}, request).generate_report() == ""


def test_no_port_is_open_to_the_internet(config, nodes, stack):
    assert not re.search(r"(^|[^:])0\.0\.0\.0|::/0", TEXT)
    assert config["provider"]["use_internal_ips"] and "security_group" not in config["provider"]
    for node in nodes.values():
        for interface in node["NetworkInterfaces"]:
            assert interface["Groups"] and interface["AssociatePublicIpAddress"] is False
    assert "start-session" in config["auth"]["ssh_proxy_command"] and config["auth"]["ssh_proxy_use_node_id"]
    assert f"--region {config['provider']['region']} " in config["auth"]["ssh_proxy_command"]

    resources = stack["Resources"].values()
    rules = [r["Properties"] for r in resources if r["Type"] == "AWS::EC2::SecurityGroupIngress"]
    assert [rule["SourceSecurityGroupId"] for rule in rules] == ["SecurityGroup"]
    for resource in resources:
        assert "SecurityGroupIngress" not in resource.get("Properties", {})
        assert not resource.get("Properties", {}).get("MapPublicIpOnLaunch")


def test_every_ray_process_requires_the_token(config, shell, tmp_path):
    for commands_ in config["head_start_ray_commands"], config["worker_start_ray_commands"]:
        starts = [command for command in commands_ if "ray start" in command]
        assert len(starts) == 1 and "RAY_AUTH_MODE=token ray start" in starts[0]
    assert "--dashboard-host=127.0.0.1" in config["head_start_ray_commands"][-1]
    assert "--disable-usage-stats" in config["head_start_ray_commands"][-1]

    token = tmp_path / ".ray" / "auth_token"
    assert config["file_mounts"]["~/.ray/auth_token"] == "~/.ray/auth_token"
    assert token.stat().st_mode & 0o777 == 0o600 and token.parent.stat().st_mode & 0o777 == 0o700
    assert shell("echo $RAY_AUTH_MODE $RAY_USAGE_STATS_ENABLED").split() == ["token", "0"]


@pytest.mark.parametrize("part", ["head_start_ray_commands", "worker_start_ray_commands"])
@pytest.mark.parametrize(
    ("failures", "code", "calls"), [(0, 0, "start"), (2, 0, "start stop " * 2 + "start"), (9, 1, "start stop " * 3)]
)
def test_a_busy_machine_gets_three_chances_to_start_ray(config, local, tmp_path, part, failures, code, calls):
    """In place of Ray: a program that fails to start so often, as Ray does where 30 s are not enough."""
    said = tmp_path / "calls"
    count = f"[ $1 = stop ] || [ $(grep -c start {said}) -gt {failures} ]"
    (tmp_path / "ray").write_text(f"#!/bin/sh\necho $1 >>{said}\n{count}\n")
    (tmp_path / "ray").chmod(0o755)
    environment = {"HOME": str(tmp_path), "PATH": f"{tmp_path}:/usr/bin:/bin"}
    for commands_ in config[part], local[part]:
        done = subprocess.run(
            ["bash", "-c", f"true && ({commands_[-1]})"], env=environment, capture_output=True, timeout=60
        )
        assert done.returncode == code
        assert said.read_text().split() == calls.split()
        said.unlink()


def test_disks_are_encrypted_and_credentials_are_protected(nodes):
    for node in nodes.values():
        assert node["MetadataOptions"] == {"HttpTokens": "required", "HttpPutResponseHopLimit": 1}
        assert node["IamInstanceProfile"]["Name"]
        assert [disk["Ebs"]["Encrypted"] for disk in node["BlockDeviceMappings"]] == [True]


def test_no_secrets(config):
    assert "aws_credentials" not in config["provider"] and "ssh_private_key" not in config["auth"]
    secrets = r"AKIA|ASIA|PRIVATE KEY|(secret|password|RAY_AUTH_TOKEN)\w*\s*[:=](?!\$\()|[0-9a-f]{32}"
    for file in (ROOT / "cluster").iterdir():
        text = re.sub(r"--hash=sha256:[0-9a-f]{64}\b", "", file.read_text())
        assert not re.search(secrets, text, re.IGNORECASE), file


def test_the_head_has_the_permissions_of_an_autoscaler_and_no_others(config, nodes, stack):
    """The actions are those that Ray's AWS provider was observed to call on the head."""
    head = stack["Resources"]["HeadRole"]["Properties"]
    statements = [s for policy in head["Policies"] for s in policy["PolicyDocument"]["Statement"]]
    actions = {
        action for s in statements for action in ([s["Action"]] if isinstance(s["Action"], str) else s["Action"])
    }
    assert not any("*" in action for action in actions)
    assert {action for action in actions if not action.startswith("ssm")} == {
        "ec2:DescribeInstances", "ec2:RunInstances", "ec2:CreateTags", "ec2:TerminateInstances", "iam:PassRole"
    }  # fmt: skip
    tagged = [s["Condition"]["StringEquals"] for s in statements if "ray-cluster-name" in str(s.get("Condition"))]
    names = [value for condition in tagged for key, value in condition.items() if "ray-cluster-name" in key]
    assert names == [config["cluster_name"]] * 2
    types = [condition["ec2:InstanceType"] for condition in tagged if "ec2:InstanceType" in condition]
    assert nodes["a100"]["InstanceType"] in types[0]
    profiles = {r["Properties"]["InstanceProfileName"] for r in stack["Resources"].values() if "Profile" in r["Type"]}
    assert profiles == {node["IamInstanceProfile"]["Name"] for node in nodes.values()}


def ray_of_the_lock() -> str:
    return re.search(r"^ray==([\d.]+) ", (ROOT / "cluster/requirements.lock").read_text(), re.M)[1]


def test_all_nodes_have_the_same_version_of_ray(config):
    """And the launcher has it."""
    assert set(re.findall(r"ray(?:\[default\])?==([\d.]+)", TEXT)) == {ray_of_the_lock()}
    assert config["worker_setup_commands"][-3:] == config["head_setup_commands"][-3:]


def test_nodes_get_only_files_of_the_installation(config):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    sent = {local for remote, local in config["file_mounts"].items() if remote.startswith("~/survq-source/")}
    locks = {"cluster/build.lock", "cluster/requirements.lock"}
    assert sent == {"pyproject.toml", "survq", project["readme"], *project["license-files"], *locks}
    assert [local for local in sent if not (ROOT / local).exists()] == []
    # `python ~/study.py` imports from the home folder first
    assert not any(remote.startswith("~/survq/") for remote in config["file_mounts"])


def test_a_study_gets_its_flags_unchanged(shell, tmp_path, monkeypatch):
    """`ray submit` without ssh: its command runs in a shell like the head's."""
    from click.testing import CliRunner
    from ray.scripts import scripts

    flags = ["--data", "s3://bucket/a_folder", "--cohorts", "BLCA", "COADREAD", "--gpus-per-trial", "0.5", "--verbose"]
    submitted = {}
    monkeypatch.setattr(
        scripts, "rsync", lambda config, source, target, *_, **__: submitted.update(sent=(source, target))
    )
    monkeypatch.setattr(scripts, "exec_cluster", lambda config, **how: submitted.update(how))
    study = "studies/query_counts.py"
    done = CliRunner().invoke(scripts.submit, ["cluster/cluster.yaml", study, "--", *flags])
    assert done.exit_code == 0, done.output
    assert submitted["sent"] == (study, "~/query_counts.py")

    probe = "import json, os, sys; print(json.dumps([sys.argv[1:], os.getcwd(), os.environ['RAY_ADDRESS']]))"
    (tmp_path / "query_counts.py").write_text(probe)
    arguments, folder, address = json.loads(shell(submitted["cmd"]))
    assert tyro.cli(StudySettings, args=arguments) == tyro.cli(StudySettings, args=flags)
    assert folder == str(tmp_path)  # so results/ is in the home folder
    assert address == "auto"  # otherwise survq would start a private Ray


def test_the_configuration_for_the_head(config):
    """`ray up` rewrites the configuration for the head: with its paths, and without a proxy to its workers."""

    class Provider:
        def prepare_for_head_node(self, config):
            return config

    _, file = commands._set_up_config_for_head_node(json.loads(json.dumps(config)), Provider(), no_restart=False)
    head_config = json.loads(Path(file.name).read_text())
    assert head_config["auth"] == {"ssh_user": "ubuntu"}
    assert all(remote == local for remote, local in head_config["file_mounts"].items())
    validate_config(prepare_config(head_config))
