"""Studies that read the results of another study, called in this process."""

import importlib.util
from pathlib import Path

STUDIES = Path(__file__).parents[1] / "studies"


def run(name: str, results: Path, **settings) -> int:
    """Run studies/`name`.py on these results; returns its exit code."""
    spec = importlib.util.spec_from_file_location(name, STUDIES / f"{name}.py")
    study = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(study)
    try:
        study.main(study.Settings(results, **settings))
    except SystemExit as end:
        return end.code
    return 0
