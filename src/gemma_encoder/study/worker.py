"""A worker: claims trials and runs them until nothing is left. Several work on one storage."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

from ..errors import GemmaEncoderError, first_line
from ..evaluation import higher_is_better
from .choosing import best_learning_rate, finalists, reported_learning_rate, search_ended
from .plan import FIRST_TUNING_SEED, Arm, StudyPlan, TrialKey
from .storage import Claimed, StudyStorage
from .trial import PrunedError, Recipe, TrialRunner

Resolve = Callable[[Arm, str, int, float | None], Recipe]
"""An arm, a task, a seed and a learning rate (None: that of the options) to what is to be trained."""


@dataclass
class Worker:
    """Runs a study's trials.

    Attributes:
        storage: Of the study.
        resolve: Makes recipes of arms.
        budget_minutes: Begin no trial that would probably end later than this.
        say: Takes lines about what is begun and what came out.
        poll_seconds: How often to look where others run what this one waits for.
    """

    storage: StudyStorage
    resolve: Resolve
    budget_minutes: float | None = None
    say: Callable[[str], None] = lambda line: None
    poll_seconds: float = 2.0

    def __post_init__(self) -> None:
        self.plan: StudyPlan = self.storage.plan()
        self.runner = TrialRunner(self.plan.selection_rows, self.plan.report_rows)
        self.began = time.monotonic()
        self._rates: dict[tuple[str, str], float] = {}
        self._known_metrics: dict[str, str] = {}
        self._enqueued: set[TrialKey] = set()

    def work(self) -> int:
        """Run what waits and what others leave behind; gives the number of trials that were run.

        A trial that fails doesn't stop the others. When this is interrupted, its trial waits again.
        """
        done = 0
        with self.storage.alive():
            while True:
                if not self._has_time():
                    return done
                claimed = self._next()
                if claimed is not None:
                    self._run(claimed)
                    done += 1
                elif self._others_run():
                    time.sleep(self.poll_seconds)
                else:
                    return done

    def _next(self) -> Claimed | None:
        claimed = self.storage.claim(self._ready)
        if claimed is not None or self.plan.design != "search":
            return claimed
        for task in self.plan.tasks:
            proposed = self.storage.search(self.plan, task, FIRST_TUNING_SEED)
            if proposed is not None:
                return proposed
        if self._enqueue_finalists():
            return self.storage.claim(self._ready)
        return None

    def _ready(self, key: TrialKey) -> bool:
        """Whether a waiting trial has all it needs: a report its arm's learning rate."""
        if key.stage != "report" or not self.plan.learning_rates:
            return True
        return self._rate(key.task, key.arm) is not None

    def _rate(self, task: str, arm: str) -> float | None:
        """The rate of an arm's report trials; once one of them has it, a later try changes nothing."""
        if (task, arm) not in self._rates:
            metric, records = self._metric(task), self.storage.records()
            rate = reported_learning_rate(records, task, arm) or best_learning_rate(
                records, self.plan, task, arm, metric, higher=higher_is_better(metric)
            )
            if rate is None:
                return None
            self._rates[task, arm] = rate
        return self._rates[task, arm]

    def _metric(self, task: str) -> str:
        """The main metric of a task; what is known of its rows says it."""
        if task not in self._known_metrics:
            baseline = self.plan.arms()[0]
            rows = self.storage.rows().get(task)
            if rows is None:
                rows = self.runner.report_on(self.resolve(baseline, task, 0, None))
            self._known_metrics[task] = rows.metrics[0]
        return self._known_metrics[task]

    def _enqueue_finalists(self) -> bool:
        """Whether any were not there; what failed in an earlier run is tried once more."""
        records = self.storage.records()
        known = {each.key for each in records if each.state != "failed"} | self._enqueued
        more = False
        for task in self.plan.tasks:
            if not search_ended(records, self.plan, task):
                continue
            metric = self._metric(task)
            best = finalists(records, self.plan, task, metric, higher=higher_is_better(metric))
            arms = {arm.name: arm for arm in best}
            keys = [key for key in self.plan.report_keys(list(arms), [task]) if key not in known]
            self._enqueued.update(keys)
            self.storage.enqueue(self.plan, keys, arms)
            more = more or bool(keys)
        return more

    def _others_run(self) -> bool:
        """Whether another worker runs something that this one could have to wait for, or take over."""
        return any(each.state == "running" for each in self.storage.records())

    def _has_time(self) -> bool:
        if self.budget_minutes is None:
            return True
        left = self.budget_minutes - (time.monotonic() - self.began) / 60
        taken = [each.result.minutes for each in self.storage.records() if each.result]
        return left > (median(taken) if taken else 0)

    def _run(self, claimed: Claimed) -> None:
        key, storage = claimed.key, self.storage
        rate = self._rate(key.task, key.arm) if key.stage == "report" and self.plan.learning_rates else None
        self.say(f"begins {key}")
        try:
            with storage.beating(claimed):
                recipe = self.resolve(claimed.arm, key.task, key.seed, key.learning_rate or rate)
                storage.set_rows(key.task, self.runner.report_on(recipe))
                metric = self._metric(key.task)
                tell = self._tell(claimed) if key.stage == "search" else None
                result = self.runner.run(recipe, reports=key.stage == "report", tell=tell)
        except PrunedError:
            storage.prune(claimed)
            self.say(f"{key}: ended early")
        except (KeyboardInterrupt, SystemExit):
            storage.release(claimed)
            raise
        except (GemmaEncoderError, RuntimeError, MemoryError, OSError) as error:
            storage.fail(claimed, first_line(error))
            self.say(f"{key}: failed: {first_line(error)}")
        else:
            storage.finish(claimed, result, result.selection[metric])
            shown = (result.report or result.selection)[metric]
            rows = "" if result.report else " on the selection rows"
            self.say(f"{key}: {metric} {shown:.4f}{rows} ({result.minutes:.1f} min)")

    def _tell(self, claimed: Claimed) -> Callable[[int, float], bool]:
        def tell(step: int, value: float) -> bool:
            claimed.trial.report(value, step)
            return bool(claimed.trial.should_prune())

        return tell
