"""What SurvQ costs, beside a fixed reference: `python -m tests.benchmarks`. See README.md."""
