import dataclasses

import pytest

from nutgraf.evaluation import published


@pytest.mark.parametrize(
    ("system", "rouge1", "rouge2", "rouge_lsum", "year"),
    [
        ("lead-3", 40.34, 17.70, 36.57, 2017),
        ("pointer-generator", 36.44, 15.66, 33.42, 2017),
        ("pointer-generator + coverage", 39.53, 17.28, 36.38, 2017),
        ("BertSumExtAbs", 42.13, 19.60, 39.18, 2019),
        ("BART-large", 44.16, 21.28, 40.90, 2020),
        ("PEGASUS-large", 44.17, 21.47, 41.11, 2020),
        ("SimCLS", 46.67, 22.15, 43.54, 2021),
        ("BRIO", 47.78, 23.55, 44.57, 2022),
    ],
)
def test_figures_are_as_the_papers_print_them(system, rouge1, rouge2, rouge_lsum, year):
    (row,) = (row for row in published.SYSTEMS if row.system == system)
    assert (row.rouge1, row.rouge2, row.rougeLsum) == (rouge1, rouge2, rouge_lsum)
    assert row.n == 11_490
    assert f"({year})" in row.citation


def test_the_table_holds_systems_that_compare():
    assert [row.system for row in published.COMPARED] == ["BART-large", "PEGASUS-large"]
    with pytest.raises(dataclasses.FrozenInstanceError):
        published.BART.rouge1 = 50
