"""Which trials are stopped, whatever the order in which they report."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from nutgraf.search.halving import Halving, TrialProgress, Verdict

LAST = 4
RULE = Halving(grace=1, factor=2, parallel=2)


def running(*losses: float) -> TrialProgress:
    return TrialProgress(losses, LAST, ended=len(losses) == LAST)


def stops(rule: Halving, *courses: TrialProgress) -> list[int | None]:
    return [verdict.stop for verdict in rule.judge(dict(enumerate(courses, 1))).values()]


def test_of_the_first_two_the_worse_is_stopped_whichever_number_it_has() -> None:
    assert stops(RULE, running(1.0), running(2.0)) == [None, 1]
    assert stops(RULE, running(2.0), running(1.0)) == [1, None]


def test_no_verdict_before_the_other_of_the_first_two_has_reported() -> None:
    assert RULE.judge({1: running(2.0, 1.9)}) == {1: Verdict(None, False)}
    assert RULE.judge({1: running(2.0, 1.9), 2: running()})[1] == Verdict(None, False)
    assert RULE.judge({1: running(2.0, 1.9), 2: running(1.0)})[1] == Verdict(1, True)
    alone = TrialProgress((), LAST, ended=True)
    assert RULE.judge({1: running(2.0, 1.9), 2: alone})[1] == Verdict(None, False)
    assert RULE.judge({1: running(2.0, 1.9, 1.8, 1.7), 2: alone})[1] == Verdict(None, True)


def test_a_trial_is_judged_against_those_before_it_not_after() -> None:
    courses = [running(1.0, 0.9), running(2.0), running(0.8)]
    assert stops(RULE, *courses) == [None, 1, None]
    # The third is better than the first, and neither stops the other: it came later.
    assert stops(RULE, *courses[:2], running(1.5)) == [None, 1, None]  # the median passes
    assert stops(RULE, *courses[:2], running(1.5), running(1.6)) == [None, 1, None, 1]


def test_at_the_second_rung_only_those_count_that_passed_the_first() -> None:
    # The second went on before the first reported, and what it did there does not count.
    courses = [running(1.0, 0.9), running(2.0, 0.1), running(0.9, 0.85)]
    assert stops(RULE, *courses) == [None, 1, None]
    assert stops(RULE, *courses[:2], running(0.9, 0.95)) == [None, 1, 2]


def test_between_rungs_and_within_the_grace_nobody_is_stopped() -> None:
    assert stops(RULE, running(1.0, 1.0, 9.0), running(2.0)) == [None, 1]
    patient = Halving(grace=2, factor=2, parallel=2)
    assert stops(patient, running(1.0), running(9.0)) == [None, None]
    assert stops(patient, running(1.0, 1.0), running(9.0, 9.0)) == [None, 2]


def test_a_trial_that_has_used_its_budget_is_not_stopped() -> None:
    patient = Halving(grace=LAST, factor=2, parallel=2)
    courses = [running(1.0, 1.0, 1.0, 1.0), running(2.0, 2.0, 2.0, 2.0)]
    assert patient.judge(dict(enumerate(courses, 1))) == {
        1: Verdict(None, True),
        2: Verdict(None, True),
    }


def test_a_failed_trial_counts_up_to_its_last_report() -> None:
    failed = TrialProgress((0.5,), LAST, ended=True)
    assert stops(RULE, running(1.0, 0.9), failed) == [1, None]
    assert stops(RULE, failed, running(0.4, 0.3), running(0.45, 0.4)) == [1, None, 2]


losses = st.integers(0, 5).map(float)  # few values, so that there are ties
courses = st.lists(
    st.tuples(st.lists(losses, min_size=1, max_size=6), st.booleans()), min_size=1, max_size=7
)


@given(
    whole=courses,
    rule=st.builds(Halving, st.integers(1, 2), st.integers(2, 3), st.integers(1, 3)),
    order=st.randoms(use_true_random=False),
)
def test_a_verdict_once_known_never_changes_whatever_the_order(
    whole: list[tuple[list[float], bool]], rule: Halving, order: object
) -> None:
    """Every trial reports all it has, in any order; some fail at the end, others complete."""
    rule = Halving(rule.grace, rule.factor, min(rule.parallel, len(whole)))
    evaluations = {n: len(values) + failed for n, (values, failed) in enumerate(whole, 1)}
    final = rule.judge(
        {n: TrialProgress(tuple(v), evaluations[n], True) for n, (v, _) in enumerate(whole, 1)}
    )
    assert all(verdict.settled for verdict in final.values())
    reports = [n for n, (values, _) in enumerate(whole, 1) for _ in range(len(values) + 1)]
    order.shuffle(reports)  # type: ignore[attr-defined]
    known: dict[int, TrialProgress] = {}
    for number in reports:  # each an evaluation, the last one the trial's end
        values, got = whole[number - 1][0], known.get(number)
        count = 0 if got is None else len(got.losses)
        known[number] = TrialProgress(
            tuple(values[: count + 1]), evaluations[number], ended=count == len(values)
        )
        for judged, verdict in rule.judge(known).items():
            if verdict.settled or verdict.stop is not None:
                assert verdict == final[judged]
    assert rule.judge(known) == final
