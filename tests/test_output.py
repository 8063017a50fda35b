"""Output that cannot be shown, or that nobody reads any more, does not end a program; and what --help shows."""

import os
import runpy
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PROGRAM = """
import sys
from survq.exits import DATA, UserError, exit_on_user_error
class Wrong(UserError):
    exit_code = DATA
with exit_on_user_error():
    for number in range(20_000):
        print(f"0.61 ± 0.02 ─── µm {number}", flush=number % 100 == 0)
    print("a name that is not UTF-8: \\udce4")
    open(sys.argv[1], "w").write("results")
    raise Wrong("the cure: 5 ≥ 4 ☃")
"""


def start(tmp_path: Path, encoding: str = "utf-8", **streams) -> subprocess.Popen:
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONIOENCODING": encoding}
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(tmp_path / "written")],
        env=environment, **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | streams,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("encoding", "line", "cure"),
    [
        ("utf-8", "0.61 ± 0.02 ─── µm 7", "5 ≥ 4 ☃"),
        ("ascii", "0.61 +- 0.02 --- um 7", r"5 \u2265 4 \u2603"),
        ("latin-1", "0.61 +- 0.02 --- um 7", r"5 \u2265 4 \u2603"),
    ],
)
def test_letters_that_an_encoding_lacks_are_replaced(tmp_path, encoding, line, cure):
    out, err = start(tmp_path, encoding).communicate(timeout=60)
    lines = out.decode(encoding).splitlines()
    assert (lines[7], lines[-1]) == (line, "a name that is not UTF-8: ?")
    assert err.decode(encoding) == f"survq: the cure: {cure}\n"
    assert (tmp_path / "written").read_text() == "results"


def test_a_reader_that_has_gone_is_not_missed(tmp_path):
    """As with `| head`."""
    program = start(tmp_path)
    assert program.stdout.readline() == "0.61 ± 0.02 ─── µm 0\n".encode()
    program.stdout.close()
    errors = program.stderr.read().decode()
    assert program.wait(60) == 65 and (tmp_path / "written").read_text() == "results"
    assert errors == "survq: the cure: 5 ≥ 4 ☃\n"


@pytest.mark.parametrize("program", [["-m", "survq.cli"], [str(ROOT / "studies/risk_groups.py")]])
def test_nobody_reads_the_help_to_its_end(program):
    """As in `survq --help | head`, which other code prints."""
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, *program, "--help"]
    done = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, env=os.environ | {"PYTHONPATH": str(ROOT)})
    os.close(writing)
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.parametrize("study", sorted(path.stem for path in (ROOT / "studies").glob("*.py")))
def test_help_of_each_study_lists_the_common_flags(study, monkeypatch, capsys):
    script = str(ROOT / "studies" / f"{study}.py")
    monkeypatch.setattr(sys, "argv", [script, "--help"])
    with pytest.raises(SystemExit) as end:
        runpy.run_path(script, run_name="__main__")
    shown = capsys.readouterr().out
    assert end.value.code == 0 and "{None}" not in shown
    if study in ("risk_groups", "fusion_audit"):  # they read the results of another study
        assert "RESULTS" in shown
        return
    trains = study != "inference_cost"
    for flag in ("--data", "--results", *(("--cohorts", "--epochs", "--seeds") if trains else ())):
        assert flag in shown, flag


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full: it is Linux's")
def test_a_log_on_a_full_disk_loses_its_lines_only(tmp_path):
    with open("/dev/full", "wb") as full:
        program = start(tmp_path, stdout=full, stderr=full)
        assert program.wait(60) == 65
    assert (tmp_path / "written").read_text() == "results"


WAITING = """
import time
from survq.exits import end_on_signals, exit_on_user_error
with exit_on_user_error(interrupted="stopped"):
    end_on_signals()
    print("ready", flush=True)
    time.sleep(60)
"""


@pytest.mark.parametrize(
    ("number", "ignored", "code", "said"),
    [
        (signal.SIGTERM, False, 143, "survq: stopped\n"),
        (signal.SIGHUP, False, 129, "survq: stopped\n"),  # the terminal or the connection has gone
        (signal.SIGHUP, True, -signal.SIGKILL, ""),  # nohup
    ],
)
def test_signals_end_a_program_in_order(number, ignored, code, said):
    def prepare():
        signal.signal(signal.SIGHUP, signal.SIG_IGN if ignored else signal.SIG_DFL)

    program = subprocess.Popen(
        [sys.executable, "-c", WAITING],
        env=os.environ | {"PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        preexec_fn=prepare,
    )  # fmt: skip
    assert program.stdout.readline() == "ready\n"
    program.send_signal(number)
    if ignored:
        with pytest.raises(subprocess.TimeoutExpired):
            program.wait(0.5)
        program.kill()
    assert program.wait(30) == code and program.stderr.read() == said


def test_known_lines_are_left_out_of_stderr_and_no_others():
    """Also those of C: of the descriptor, not of sys.stderr."""
    program = (
        "import os, sys; from survq.output import stderr_without\n"
        "with stderr_without('known'):\n"
        "    os.write(2, b'a known line\\nan error of C\\n'); print('of Python', file=sys.stderr)\n"
        "    os.write(2, 'a known one; \\xe4\\n'.encode('latin-1'))\n"
        "print('after', file=sys.stderr)\n"
        "with stderr_without('known'):\n"
        "    os.write(2, b'before it failed\\n'); raise SystemExit('the reason')\n"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True)
    lines = done.stderr.decode().splitlines()
    assert sorted(lines[:2]) == ["an error of C", "of Python"] and lines[2:] == [
        "after",
        "before it failed",
        "the reason",
    ]
