import numpy as np
import pandas as pd
import pytest
from scipy import stats
from statsmodels.stats.multitest import multipletests

from lib.evaluation import slices
from lib.evaluation.significance import share_interval


def test_candidates_are_ranges_values_terms_and_clusters():
    texts = ["CAT sat", *["the cat sat on a mat"] * 5, *["stocks fell 5 percent today"] * 5]
    column = ["en", *[None] * 5, *["fr"] * 5]
    found = slices.candidate_slices(texts, columns={"language": column}, n_clusters=2)
    rows = {name: np.flatnonzero(members).tolist() for name, members in found.items()}
    animals, money = list(range(6)), list(range(6, 11))
    assert rows["words 2 to 5"] == [0, *money]
    assert rows["share of capitals 0 to 0.429"] == list(range(11))
    assert (rows["language: en"], rows["language: fr"]) == ([0], money)
    assert rows['with "percent"'] == money
    clusters = {name: members for name, members in rows.items() if name.startswith("about ")}
    assert sorted(clusters.values()) == [animals, money]
    assert {name for name, members in clusters.items() if members == animals} == {
        "about cat, sat, mat"
    }


def planted(n=400):
    """Two halves of rows alike: `weak` has 40 errors of 100, the rest 20 of 300."""
    rows = np.arange(n)
    weak = rows < 100
    right = np.where(weak, rows % 5 > 1, rows % 15 > 0)
    other = rows % 2 == 0
    members = pd.DataFrame({"weak": weak, "twin": weak, "other": other, "rare": rows < 10})
    both = pd.concat([members, members.assign(rare=rows < 100)], ignore_index=True)
    return both, np.r_[right, right], np.arange(2 * n) < n


def test_a_weak_slice_is_found_with_its_interval_and_p():
    members, right, suspecting = planted()
    found = slices.weak_slices(members, right, suspecting)
    assert found.table.index.tolist() == ["weak", "other"]  # not its twin, nor `rare`
    weak = found.table.loc["weak"]
    assert (weak["n"], weak["share"], weak["accuracy"]) == (100, 0.25, 0.6)
    assert (weak["elsewhere"], weak["gain"]) == (280 / 300, pytest.approx(0.6 - 280 / 300))
    p_weak = stats.fisher_exact([[40, 60], [20, 280]], alternative="greater").pvalue
    n_wrong = int((~right[400:])[::2].sum())
    p_other = stats.fisher_exact(
        [[n_wrong, 200 - n_wrong], [60 - n_wrong, 140 + n_wrong]], alternative="greater"
    ).pvalue
    holm = multipletests([p_weak, p_other], method="holm")[1]
    np.testing.assert_allclose(found.table["p"], holm, rtol=1e-9)
    inside, outside = (share_interval(*each, confidence=0.95) for each in ((60, 100), (280, 300)))
    below = np.hypot(inside.value - inside.low, outside.high - outside.value)
    assert weak["low"] == pytest.approx(weak["gain"] - below)  # 95 %: one-sided 97.5 % of each
    assert found.table["verdict"].to_dict() == {"weak": "worse", "other": "inconclusive"}
    assert found.title == "1 of 2 suspected slices are weaker (n = 400)"
    assert found.drawn.index[0] == "weak (n = 100)"
    assert found.describe() == (
        "Weaker than elsewhere: weak (0.600 against 0.933, n = 100). 3 slices were looked at on "
        "400 other rows, and the 2 most suspicious tested (Holm)."
    )


def test_what_is_weak_on_the_suspecting_rows_alone_is_not_called_weak():
    members, right, suspecting = planted()
    right[400:] = ~np.isin(np.arange(400) % 20, [0, 11])
    found = slices.weak_slices(members, right, suspecting)
    assert found.table.loc["weak", ["accuracy", "elsewhere"]].tolist() == [0.9, 0.9]
    assert found.weak.empty
    assert found.title == "No slice is weaker than chance explains (n = 400)"
    assert found.describe().startswith("No slice is weaker than chance explains, n = 400. 3 ")


def test_few_rows_have_no_slice_to_test():
    members, right, suspecting = planted()
    found = slices.weak_slices(members, right, suspecting, min_rows=300)
    assert (len(found.table), found.n_candidates) == (0, 0)
    assert found.title == "No slice is weaker than chance explains (n = 400)"


def test_of_many_slices_the_most_suspicious_are_tested():
    members, right, suspecting = planted()
    found = slices.weak_slices(members, right, suspecting, n_tested=1)
    assert found.table.index.tolist() == ["weak"]


def test_copies_of_a_row_count_once():
    members, right, suspecting = planted()
    right[400:500] = np.arange(100) % 7 > 0  # less clear
    once = slices.weak_slices(members[["weak"]], right, suspecting)
    thrice = members[["weak"]].loc[members.index.repeat(3)].reset_index(drop=True)
    copies = {"right": right.repeat(3), "suspecting": suspecting.repeat(3)}
    grouped = slices.weak_slices(thrice, groups=np.arange(800).repeat(3), **copies)
    blind = slices.weak_slices(thrice, **copies)
    wrong, inside = ~right[400:], members["weak"].to_numpy()[400:]
    contrast = inside / 100 - ~inside / 300
    z = contrast @ wrong / np.sqrt((contrast**2 * (wrong - wrong.mean()) ** 2).sum())
    assert grouped.table["p"].tolist() == pytest.approx([stats.norm.sf(z)])
    assert blind.table["p"].iloc[0] < grouped.table["p"].iloc[0] / 5
    assert once.table["p"].iloc[0] > grouped.table["p"].iloc[0] / 2


def test_a_model_without_errors_has_no_weak_slice():
    members, right, suspecting = planted()
    with np.errstate(all="raise"):
        found = slices.weak_slices(
            members, np.ones_like(right), suspecting, groups=np.arange(800) // 2
        )
    assert found.weak.empty
    assert (found.table["p"] == 1).all()
