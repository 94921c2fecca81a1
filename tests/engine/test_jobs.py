"""The lane: order, replacement, cancellation, and one last event for every job, whatever becomes of it."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable

import pytest

from featup_app.base.errors import Cancelled
from featup_app.engine import jobs
from featup_app.engine.jobs import Event, Failed, Finished, Job, Lane, Progressed, Started, Stopped, Succeeded

LONG = 20.0
"""Seconds after which a test gives up; nothing here waits for time to pass."""

OUTCOMES = (Succeeded, Failed, Stopped)


class Recorder:
    """Listens to a lane and lets a test wait until something has happened."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.threads: list[str] = []
        self.changed = threading.Condition()
        self.react: Callable[[Event], None] | None = None

    def __call__(self, event: Event) -> None:
        with self.changed:
            self.events.append(event)
            self.threads.append(threading.current_thread().name)
            self.changed.notify_all()
        if self.react is not None:
            self.react(event)

    def wait_finished(self, *wanted: Job) -> None:
        with self.changed:
            done = self.changed.wait_for(
                lambda: set(wanted) <= {e.job for e in self.events if isinstance(e, Finished)}, LONG
            )
        assert done, f"not finished: {self.events}"

    def of(self, job: Job) -> list[type[Event]]:
        """The kinds of a job's events in order, without its progress."""
        return [type(event) for event in self.events if event.job == job and not isinstance(event, Progressed)]


@pytest.fixture
def recorder():
    return Recorder()


@pytest.fixture
def lane(recorder):
    lane = Lane("worker under test", recorder)
    yield lane
    assert lane.close(LONG)


class Held:
    """Work that says when it runs, and goes on when it is let."""

    def __init__(self, result: object = None) -> None:
        self.result = result
        self.running, self.let = threading.Event(), threading.Event()

    def __call__(self, progress) -> object:
        self.running.set()
        assert self.let.wait(LONG)
        progress("after the wait", 0, 1)
        return self.result

    def wait_running(self) -> None:
        assert self.running.wait(LONG)


def work(result: object = None) -> Callable:
    return lambda progress: result


def fail(error: Exception) -> Callable:
    def failing(progress):
        raise error

    return failing


def test_jobs_are_done_one_after_the_other_in_the_order_of_their_submission(lane, recorder):
    first = Held(0)
    submitted = [lane.submit("kind 0", first)]
    submitted += [lane.submit(f"kind {index}", work(index)) for index in range(1, 6)]
    first.wait_running()
    assert lane.busy
    first.let.set()
    recorder.wait_finished(*submitted)
    told = [event for event in recorder.events if not isinstance(event, Progressed)]
    expected = [
        event for index, job in enumerate(submitted) for event in (Started(job), Succeeded(job, index), Finished(job))
    ]
    assert told == expected
    assert set(recorder.threads) == {"worker under test"}
    assert [job.id for job in submitted] == sorted({job.id for job in submitted})


def test_a_failure_is_told_and_the_next_job_still_runs(lane, recorder):
    error = ValueError("no such thing")
    failing, after = lane.submit("a", fail(error)), lane.submit("b", work("fine"))
    recorder.wait_finished(failing, after)
    assert recorder.of(failing) == [Started, Failed, Finished]
    assert Failed(failing, error) in recorder.events
    assert Succeeded(after, "fine") in recorder.events


def test_cancelled_while_running_is_stopped_and_not_failed(lane, recorder):
    held = Held()
    job = lane.submit("a", held)
    held.wait_running()
    lane.cancel("a")
    held.let.set()
    recorder.wait_finished(job)
    assert recorder.of(job) == [Started, Stopped, Finished]


def test_work_that_gives_itself_up_is_stopped_and_not_failed(lane, recorder):
    job = lane.submit("a", fail(Cancelled()))
    recorder.wait_finished(job)
    assert recorder.of(job) == [Started, Stopped, Finished]


def test_cancelled_while_waiting_never_starts(lane, recorder):
    held = Held()
    running, waiting, other = lane.submit("a", held), lane.submit("b", work()), lane.submit("c", work())
    held.wait_running()
    lane.cancel("b")
    assert recorder.of(waiting) == [Stopped, Finished]
    held.let.set()
    recorder.wait_finished(running, waiting, other)
    assert recorder.of(running) == [Started, Succeeded, Finished]
    assert recorder.of(waiting) == [Stopped, Finished]
    assert recorder.of(other) == [Started, Succeeded, Finished]


def test_cancelling_everything_stops_the_running_and_the_waiting(lane, recorder):
    held = Held()
    submitted = [lane.submit("a", held), lane.submit("b", work()), lane.submit("c", work())]
    held.wait_running()
    lane.cancel()
    held.let.set()
    recorder.wait_finished(*submitted)
    assert [recorder.of(job) for job in submitted] == [[Started, Stopped, Finished], *[[Stopped, Finished]] * 2]
    after = lane.submit("a", work(1))
    recorder.wait_finished(after)
    assert Succeeded(after, 1) in recorder.events


def test_cancelling_when_nothing_is_there_does_nothing(lane, recorder):
    lane.cancel()
    lane.cancel("a")
    job = lane.submit("a", work(2))
    recorder.wait_finished(job)
    assert recorder.of(job) == [Started, Succeeded, Finished]
    assert len(recorder.events) == 3


def test_the_latest_of_a_kind_wins_and_other_kinds_are_left_alone(lane, recorder):
    first = Held("old")
    old = lane.submit("similarity", first)
    first.wait_running()
    other = lane.submit("pca", work("kept"))
    middle = lane.submit("similarity", work("never"))
    latest = lane.submit("similarity", work("new"))
    assert recorder.of(middle) == [Stopped, Finished]
    first.let.set()
    recorder.wait_finished(old, other, middle, latest)
    assert recorder.of(old) == [Started, Stopped, Finished]
    results = [event.result for event in recorder.events if isinstance(event, Succeeded)]
    assert results == ["kept", "new"]


def test_without_replacement_every_job_of_a_kind_is_done(lane, recorder):
    first = Held(0)
    submitted = [lane.submit("export", first)]
    submitted += [lane.submit("export", work(index), replace=False) for index in (1, 2)]
    first.let.set()
    recorder.wait_finished(*submitted)
    assert [event.result for event in recorder.events if isinstance(event, Succeeded)] == [0, 1, 2]


def test_a_job_that_ignores_its_cancellation_to_the_end_does_not_succeed(lane, recorder):
    running, let = threading.Event(), threading.Event()

    def stubborn(progress):
        running.set()
        assert let.wait(LONG)
        return "too late"

    job = lane.submit("a", stubborn)
    assert running.wait(LONG)
    latest = lane.submit("a", work("new"))
    let.set()
    recorder.wait_finished(job, latest)
    assert recorder.of(job) == [Started, Stopped, Finished]
    assert Succeeded(latest, "new") in recorder.events


def test_progress_is_throttled_but_every_new_stage_is_told(lane, recorder, monkeypatch):
    clock = [100.0]
    monkeypatch.setattr(jobs.time, "monotonic", lambda: clock[0])

    def busy(progress):
        for stage in ("first", "second", "first"):
            for step in range(500):
                progress(stage, step, 500)
        for step in range(100):  # a millisecond a step
            clock[0] += 0.001
            progress("first", step, 100)

    job = lane.submit("a", busy)
    recorder.wait_finished(job)
    told = [(event.words, event.done) for event in recorder.events if isinstance(event, Progressed)]
    assert told[:3] == [("first", 0), ("second", 0), ("first", 0)]
    assert [stage for stage, _ in told[3:]] == ["first"] * 2  # in 100 ms


def test_progress_passes_its_numbers_on(lane, recorder):
    job = lane.submit("a", lambda progress: progress("upsampling", 3, 7))
    recorder.wait_finished(job)
    assert recorder.events[1] == Progressed(job, "upsampling", 3, 7)


def test_nothing_is_told_of_a_job_after_its_last_event(lane, recorder):
    kept = []
    job = lane.submit("a", kept.append)
    recorder.wait_finished(job)
    told = len(recorder.events)
    lane.cancel()
    assert recorder.events[told:] == []
    assert isinstance(recorder.events[-1], Finished)
    assert not lane.busy


def test_the_lane_is_no_longer_busy_when_the_last_job_finishes(recorder, lane):
    busy = []
    recorder.react = lambda event: busy.append(lane.busy) if isinstance(event, Finished) else None
    job = lane.submit("a", work())
    recorder.wait_finished(job)
    assert lane.close(LONG)
    assert busy == [False]


def test_closing_ends_the_thread_and_finishes_every_job(recorder):
    lane = Lane("closed under test", recorder)
    held = Held()
    running, waiting = lane.submit("a", held), lane.submit("b", work())
    held.wait_running()
    held.let.set()
    assert lane.close(LONG)
    assert "closed under test" not in {thread.name for thread in threading.enumerate()}
    assert recorder.of(running)[0] is Started
    assert recorder.of(running)[-1] is Finished
    assert recorder.of(waiting)[-1] is Finished
    assert lane.close(LONG), "closing twice does no harm"
    with pytest.raises(RuntimeError, match="closed"):
        lane.submit("a", work())


def test_closing_says_when_the_thread_does_not_end_in_time(recorder):
    lane = Lane("slow under test", recorder)
    held = Held()
    job = lane.submit("a", held)
    held.wait_running()
    assert not lane.close(0.01)
    held.let.set()
    assert lane.close(LONG)
    recorder.wait_finished(job)
    assert recorder.of(job) == [Started, Stopped, Finished]


def test_a_request_that_answers_the_closing_is_refused_and_not_forgotten(recorder):
    lane = Lane("closing under test", recorder)
    held = Held()
    lane.submit("a", held)
    lane.submit("b", work())
    held.wait_running()
    accepted, refused = [], []

    def ask_again(event: Event) -> None:
        if isinstance(event, Stopped):
            try:
                accepted.append(lane.submit("c", work()))
            except RuntimeError:
                refused.append(event.job)

    recorder.react = ask_again
    held.let.set()
    assert lane.close(LONG)
    assert refused
    for job in accepted:
        assert recorder.of(job)[-1:] == [Finished]


def test_every_job_finishes_exactly_once_when_many_threads_ask_and_cancel(recorder):
    lane = Lane("busy under test", recorder)
    submitted, guard, begin = [], threading.Lock(), threading.Barrier(4)

    def stepping(progress):
        for step in range(20):
            progress(f"stage {step}", step, 20)
        return "done"

    def ask(seed: int) -> None:
        begin.wait(LONG)
        for index in range(60):
            if (index + seed) % 7 == 0:
                lane.cancel("abc"[seed] if index % 2 else None)
            if (index + seed) % 5 == 0:
                job = lane.submit("abc"[index % 3], fail(ValueError("no")))
            else:
                job = lane.submit("abc"[index % 3], stepping, replace=index % 4 != 0)
            with guard:
                submitted.append(job)

    askers = [threading.Thread(target=ask, args=(seed,)) for seed in range(3)]
    for thread in askers:
        thread.start()
    begin.wait(LONG)
    for thread in askers:
        thread.join(LONG)
    lane.submit("last", work())
    assert lane.close(LONG)
    counts = Counter((event.job, type(event)) for event in recorder.events)
    for job in submitted:
        assert counts[job, Finished] == 1
        assert sum(counts[job, outcome] for outcome in OUTCOMES) == 1
        assert counts[job, Started] <= 1
        assert recorder.of(job)[-1] is Finished
        assert counts[job, Started] == 1 or recorder.of(job) == [Stopped, Finished]


def test_cancelling_takes_effect_at_the_next_step(lane, recorder):
    running = threading.Event()

    def endless(progress):
        for step in range(10**9):
            progress("endless", step, 0)
            running.set()

    job = lane.submit("a", endless)
    assert running.wait(LONG)
    begin = time.monotonic()
    lane.cancel()
    recorder.wait_finished(job)
    assert time.monotonic() - begin < 0.5
    assert recorder.of(job) == [Started, Stopped, Finished]


def test_a_job_in_the_background_gives_way_to_any_other(lane, recorder):
    held = Held("too late")
    running = lane.submit("thumbnail", held, background=True)
    waiting = lane.submit("prepare", work(), background=True)
    held.wait_running()
    assert not lane.busy, "nobody waits for it"
    wanted = lane.submit("view", work("seen"))
    assert lane.busy
    assert recorder.of(waiting) == [Stopped, Finished]
    held.let.set()
    recorder.wait_finished(running, waiting, wanted)
    assert recorder.of(running) == [Started, Stopped, Finished]
    assert Succeeded(wanted, "seen") in recorder.events
    assert running.background
    assert not wanted.background


def test_jobs_in_the_background_wait_for_each_other_and_for_all_others(lane, recorder):
    held = Held()
    view = lane.submit("view", held)
    held.wait_running()
    behind = [lane.submit(kind, work(kind), background=True) for kind in ("prepare", "thumbnail")]
    held.let.set()
    recorder.wait_finished(view, *behind)
    assert [recorder.of(job) for job in (view, *behind)] == [[Started, Succeeded, Finished]] * 3
