"""Fuzz the readers, with a small share of the cases of tests/bench/fuzz_readers.py."""

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from random_files import check, files, settings


@pytest.mark.slow
@hypothesis_settings(
    max_examples=150, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck)
)
@given(file=files(), chosen=settings)
def test_any_file_becomes_rows_or_a_reported_problem(tmp_path_factory, file, chosen):
    assert check(tmp_path_factory.getbasetemp(), *file, chosen)
