"""Whatever became of a file, reading it ends in a sentence or in what it should hold."""

import pytest
from damage_by_hand import Files, outcome_of, read_apart

MEBIBYTE = 1 << 20


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return Files(tmp_path_factory.mktemp("whole"))


def test_whole_files_are_read(files):
    for kind, (path, _, read) in files.kinds.items():
        assert outcome_of(read, path) == ("successes", ""), kind


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_damaged_files_are_told_in_a_sentence(files):
    table = files.read(300, seed=0)
    print(table)
    assert table.total("tracebacks") == table.total("hangs") == 0, str(table)
    assert table.total("sentences") > 150
    assert table.memory < 300 * MEBIBYTE


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, pytest.param(2, id="full-2")])
def test_thousands_of_damaged_files(seed):
    table = read_apart(4_000, seed, foreign=False)
    print(table)
    assert sum(table.total(name) for name in ("tracebacks", "hangs", "deaths")) == 0, str(table)
    assert table.total("sentences") + table.total("successes") == 4_000
    assert table.memory < 600 * MEBIBYTE


@pytest.mark.slow
@pytest.mark.parametrize("cases", [40, pytest.param(600, id="full-600")])
def test_many_damaged_models_of_other_frameworks(cases):
    table = read_apart(cases, 3, foreign=True)
    print(table)
    if not table.rows:
        pytest.skip("none of them is installed")
    assert sum(table.total(name) for name in ("tracebacks", "hangs", "deaths")) == 0, str(table)
