"""A small share of what tests/bench/fuzz_readers.py tries: whatever a file holds, it becomes rows or is told."""

from fuzzed import check, files, settings
from hypothesis import HealthCheck, given
from hypothesis import settings as trying


@trying(max_examples=150, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
@given(file=files(), chosen=settings)
def test_whatever_a_file_holds_becomes_rows_or_is_told(tmp_path_factory, file, chosen):
    assert check(tmp_path_factory.getbasetemp(), *file, chosen)
