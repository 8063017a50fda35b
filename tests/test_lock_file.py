"""Security check I, the supply chain: nodes install what was tested, verified by its hash, and nothing else."""

import re
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
CLUSTER = ROOT / "cluster"
NODE = {
    **{"python_version": "3.12", "python_full_version": "3.12.0", "sys_platform": "linux", "os_name": "posix"},
    **{"platform_system": "Linux", "platform_machine": "x86_64", "platform_python_implementation": "CPython"},
    **{"implementation_name": "cpython", "extra": ""},
}


def locked(name: str) -> dict[str, str]:
    """The version of each package of a lock file. Asserts that each is pinned and has a hash."""
    pins = {}
    text = re.sub(r"(?m)^#.*\n", "", (CLUSTER / name).read_text()).replace("\\\n", " ")
    for line in text.splitlines():
        pin, *hashes = line.split()
        found = re.fullmatch(r"([a-z0-9-]+)(?:\[[a-z,-]+\])?==([0-9a-z.]+)", pin)
        assert found, f"{name}: {pin!r} is no package at one version"
        assert hashes and all(re.fullmatch(r"--hash=sha256:[0-9a-f]{64}", one) for one in hashes), f"{name}: {pin}"
        assert pins.setdefault(found[1], found[2]) == found[2], pin
    return pins


@pytest.fixture(scope="module")
def pins() -> dict[str, str]:
    return locked("requirements.lock")


def lacking(pins: dict[str, str], requirements: list[str]) -> list[str]:
    """The requirements of a node that no package of the lock meets."""
    wanted = [one for one in map(Requirement, requirements) if one.marker is None or one.marker.evaluate(NODE)]
    return [str(one) for one in wanted if not one.specifier.contains(pins.get(canonicalize_name(one.name), "0"), True)]


def test_the_lock_meets_every_requirement_of_survq(pins):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    direct = [*project["project"]["dependencies"], *project["project"]["optional-dependencies"]["cluster"]]
    assert lacking(pins, direct) == []
    build = locked("build.lock")
    assert lacking(build, project["build-system"]["requires"]) == []
    assert build.items() <= pins.items(), "the second command would replace them"


def test_the_lock_meets_the_requirements_of_its_packages(pins):
    """Of those that are installed here at the same version; an extra of a package is asked for by name only."""
    same = [name for name, version in pins.items() if _installed(name) == version]
    assert len(same) > 40, "too few to show anything"
    assert {name: found for name in same if (found := lacking(pins, metadata.requires(name) or []))} == {}


def _installed(name: str) -> str | None:
    try:
        return metadata.version(name).split("+")[0]
    except metadata.PackageNotFoundError:
        return None


def test_nodes_install_from_the_locks_alone():
    """Whatever else they install is survq itself, without what it asks for."""
    config = yaml.safe_load((CLUSTER / "cluster.yaml").read_text())
    dockerfile = re.findall(r"pip install [^&]*", (CLUSTER / "Dockerfile").read_text().replace("\\\n", " "))
    for commands in (config["head_setup_commands"], config["worker_setup_commands"], dockerfile):
        installs = [command.split() for command in commands if "pip install" in command]
        assert len(installs) == 3
        for words in installs:
            files = [words[place + 1].rsplit("/", 1)[-1] for place, word in enumerate(words) if word == "-r"]
            if files:
                assert "--require-hashes" in words and set(files) <= {"build.lock", "requirements.lock"}, words
                assert files == ["build.lock"] or "--no-build-isolation" in words, words
            else:
                assert {"--no-deps", "--no-build-isolation", "-e"} <= set(words), words
    assert not re.search(r"pip install|versions.txt", " ".join(config["setup_commands"]))
