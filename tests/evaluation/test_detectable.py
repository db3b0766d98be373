import numpy as np

from lib.evaluation.detectable import describe_detectable_gains, detectable_gains
from lib.evaluation.significance import minimum_detectable_effect


def test_the_gains_are_those_of_a_paired_test_on_as_many_rows():
    gains = detectable_gains({"val": np.arange(1_000), "test": np.arange(4_000)}, confidence=0.9)
    assert gains.columns.tolist() == ["val", "test"]
    assert gains.index[[0, -1]].tolist() == [0.01, 0.2]
    wanted = minimum_detectable_effect(4_000, disagreement=0.2, alpha=1 - 0.9)
    assert gains["test"].iloc[-1] == wanted
    assert (gains["val"] > gains["test"]).all()


def test_each_split_is_described_with_its_rows_and_points():
    points = 100 * minimum_detectable_effect(3_000, disagreement=0.1)
    assert describe_detectable_gains({"val": np.arange(3_000)}) == (
        "Where one model alone is right on 10% of the rows, accuracy must rise by this many points "
        f"to show with 80% power: val (3,000 rows) {points:.1f}."
    )


def test_rows_in_groups_show_what_as_many_groups_would():
    groups = {"pairs": np.arange(4_000) // 2, "single": np.arange(2_000)}
    gains = detectable_gains(groups, confidence=0.95)
    assert gains["pairs"].tolist() == gains["single"].tolist()
