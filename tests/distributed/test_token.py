"""Who may join a private Ray: only a process with its token."""

import os
import subprocess
import sys

import pytest

JOIN = "import ray; ray.init(address='{address}', log_to_driver=False); print('joined', len(ray.nodes()))"


@pytest.mark.parametrize(
    ("token", "joins"),
    [("right", True), ("0" * 64, False), ("", False)],
    ids=["with its token", "with another token", "without a token"],
)
def test_a_process_joins_only_with_the_token(ray_session, tmp_path, token, joins):
    address = ray_session.get_runtime_context().gcs_address
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_AUTH")}
    environment |= {"HOME": str(tmp_path), "RAY_gcs_rpc_server_connect_timeout_s": "2"}  # no file with a token
    if token:
        given = os.environ["RAY_AUTH_TOKEN"] if token == "right" else token
        environment |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": given}
    command = [sys.executable, "-c", JOIN.format(address=address)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert (done.returncode == 0) == joins, done.stderr[-2000:]
    assert ("joined 1" in done.stdout) == joins
    assert os.environ["RAY_AUTH_TOKEN"] not in done.stdout + done.stderr
