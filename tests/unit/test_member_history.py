"""Where the window of a look at a member begins, given what earlier looks saw."""

import pytest

from thems_jobs.clients.mysql.history import History, Sample

WINDOW_S = 2.0
KEPT_S = 10.0


def sample(at: float, **counters: str) -> Sample:
    told = {
        "Uptime": str(int(1000 + at)), "wsrep_flow_control_paused_ns": "5", "wsrep_replicated_bytes": "7",
        "wsrep_received_bytes": "9",
    }  # fmt: skip
    return Sample(at, {**told, **counters}, [])


@pytest.mark.parametrize(
    ("before", "now", "began"),
    [
        ([], 0.0, 0.0),
        ([0.0, 2.0], 2.5, 0.0),
        ([0.0, 2.0], 4.0, 2.0),
        ([0.0, 2.0, 2.5, 2.8], 4.9, 2.8),
        ([0.0, 2.0], 3.9, 0.0),
        ([0.0], 1.9, 1.9),
        ([0.0], KEPT_S, 0.0),
        ([0.0], KEPT_S + 0.1, KEPT_S + 0.1),
    ],
)
def test_a_window_begins_with_the_latest_sample_that_is_old_enough(
    before: list[float], now: float, began: float
) -> None:
    history = History(KEPT_S, samples=[sample(at) for at in before])
    assert history.begin(sample(now), WINDOW_S).at == began


@pytest.mark.parametrize("counter", ["Uptime", "wsrep_flow_control_paused_ns", "wsrep_received_bytes"])
@pytest.mark.parametrize("told", ["0", ""])
def test_nothing_before_counters_were_set_back_counts(counter: str, told: str) -> None:
    history = History(KEPT_S, samples=[sample(0.0)], queues=[(0.0, 40)])
    assert history.begin(sample(4.0, **{counter: told}), WINDOW_S).at == 4.0
    assert not history.samples
    assert not history.queues


def test_the_queue_is_the_mean_of_the_window_or_unknown() -> None:
    history = History(KEPT_S, queues=[(0.0, 90), (1.0, 0), (2.0, 6)])
    assert history.mean_queue(1.0) == 3
    history.queues.append((3.0, None))
    assert history.mean_queue(1.0) is None
    assert History(KEPT_S).mean_queue(0.0) is None


def test_what_is_too_old_for_any_window_is_forgotten() -> None:
    history = History(KEPT_S, samples=[sample(at) for at in range(100)], queues=[(float(at), 1) for at in range(100)])
    history.begin(sample(100.0), WINDOW_S)
    assert len(history.samples) == len(history.queues) == KEPT_S
