"""A study's trials in an Optuna storage: who runs what, and what came out.

Every trial of a plan is an Optuna trial in the study of its name, so that Optuna's own tools open it. A
worker claims a waiting one; what a worker leaves that dies is found by its heartbeat (at once on the same
machine) and runs again. Of two trials with one key only the first is run. A search has an Optuna study for
each task beside.
"""

from __future__ import annotations

import json
import os
import socket
import threading
import uuid
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import ConfigError, first_line
from ..extras import library
from .plan import Arm, Axis, StudyPlan, TrialKey
from .records import DIED, INTERRUPTED, Record, ReportRows, State, TrialResult
from .signs_of_life import alive, died_here

if TYPE_CHECKING:
    import optuna

STORAGE_FILE = "study.db"
LIVES = "workers"
"""Folder of the workers' signs of life."""
_GRACE = 4
"""Heartbeats that may be missed."""


@dataclass(frozen=True)
class Claimed:
    """A trial that this worker runs.

    Attributes:
        key: Which.
        arm: Its arm.
        trial: Optuna's.
    """

    key: TrialKey
    arm: Arm
    trial: optuna.Trial


class StudyStorage:
    """The trials of one study.

    Args:
        folder: The study's folder: its database, if `url` is None, and the signs of life of its workers here.
        name: The study's name in the storage.
        url: Of another storage that Optuna opens, e.g. `postgresql://...`, for workers on several machines.
        heartbeat_seconds: How often a worker says that it lives.

    Raises:
        ConfigError: Optuna isn't installed, or the storage can't be opened.
    """

    def __init__(
        self, folder: Path, name: str, url: str | None = None, *, heartbeat_seconds: int = 30
    ) -> None:
        self._optuna = library("optuna", extra="study")
        self._optuna.logging.set_verbosity(self._optuna.logging.WARNING)
        warnings.simplefilter("ignore", self._optuna.exceptions.ExperimentalWarning)
        self.folder, self.name = folder, name
        self.heartbeat_seconds = heartbeat_seconds
        folder.mkdir(parents=True, exist_ok=True)
        self.url = url or f"sqlite:///{(folder / STORAGE_FILE).absolute()}"
        # SQLite keeps no two processes from claiming the same trial.
        self._in_files = self.url.startswith("sqlite")
        self.worker = f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:6]}"
        engine = {"connect_args": {"timeout": 120}} if self._in_files else {"pool_pre_ping": True}
        try:
            with self._alone():
                self._storage = self._optuna.storages.RDBStorage(
                    self.url,
                    engine_kwargs=engine,
                    heartbeat_interval=heartbeat_seconds,
                    grace_period=_GRACE * heartbeat_seconds,
                )
        except Exception as error:  # of the database's driver, which Optuna lets through
            why = first_line(error.__cause__ or error)
            raise ConfigError(
                f"The storage {without_password(self.url)} can't be opened: {why}",
                fix="look at the address, and whether the database's driver is installed",
            ) from error

    # ------------------------------------------------------------------------------------------ the plan

    def begin(self, plan: StudyPlan) -> None:
        """Make the study, or go on with it; its trials that are not there yet wait from now on.

        Raises:
            ConfigError: It was begun with options that don't go together with these.
        """
        with self._alone():
            study = self._study(self.name, create=True)
            earlier = study.user_attrs.get("plan")
            if earlier is not None and _plan(earlier) != plan:
                plan.check_continues(_plan(earlier))
            if earlier is None or _plan(earlier) != plan:
                study.set_user_attr("plan", json.dumps(plan.to_dict()))
        self.enqueue(plan, plan.trial_keys())

    def plan(self) -> StudyPlan:
        """The plan that the study was begun with.

        Raises:
            ConfigError: There is no such study, or it was stopped before it had a plan.
        """
        stored = self._study(self.name).user_attrs.get("plan")
        if stored is None:
            raise ConfigError(
                f"The study {self.name!r} was stopped before it had a plan",
                where=without_password(self.url),
                fix="begin it again with its first command, gemma-encoder study --config FILE",
            )
        return _plan(stored)

    def studies(self) -> list[str]:
        """Names of the studies in this storage."""
        names = self._optuna.get_all_study_names(self._storage)
        return [name for name in names if not any(name.startswith(f"{other}/") for other in names)]

    def set_rows(self, task: str, rows: ReportRows) -> None:
        """Keep what a task's report rows are.

        Raises:
            ConfigError: They are others than before, or the training rows are: results would not be
                comparable.
        """
        study = self._study(self.name)
        data, before = rows.to_json(), study.user_attrs.get(f"rows:{task}")
        if before is None:
            study.set_user_attr(f"rows:{task}", json.dumps(data))
            return
        fix, stored = "use the data it was begun with, or another --output (or --name)", json.loads(before)
        if stored["labels"] != data["labels"]:
            raise ConfigError(f"The rows of {task} are not those that earlier trials were judged by", fix=fix)
        # Studies that are older than the digest have none.
        if stored.get("digest") and data["digest"] and stored["digest"] != data["digest"]:
            raise ConfigError(
                f"The texts or training labels of {task} are not those of earlier trials", fix=fix
            )

    def rows(self) -> dict[str, ReportRows]:
        """What is known of the tasks' report rows."""
        attrs = self._study(self.name).user_attrs
        return {
            name.partition(":")[2]: ReportRows.from_json(json.loads(data))
            for name, data in attrs.items()
            if name.startswith("rows:")
        }

    # ---------------------------------------------------------------------------------------- the trials

    def enqueue(
        self, plan: StudyPlan, keys: Sequence[TrialKey], arms: Mapping[str, Arm] | None = None
    ) -> None:
        """Let trials wait that are neither waiting, running nor complete.

        Args:
            plan: The plan.
            keys: Which.
            arms: Arms that are not the plan's: a search's finalists.
        """
        known = {arm.name: arm for arm in plan.arms()} | dict(arms or {})
        with self._alone():
            study = self._study(self.name)
            states = ("WAITING", "RUNNING", "COMPLETE")
            there = {_key(trial) for trial in self._trials(study, *states)}
            for key in keys:
                if key not in there:
                    arm = known[key.arm]
                    attrs = {"key": asdict(key), "options": arm.options, "levels": arm.levels}
                    study.enqueue_trial({}, user_attrs=attrs)

    def claim(self, ready: Callable[[TrialKey], bool]) -> Claimed | None:
        """Take the first waiting trial that is ready, None if there is none."""
        self.give_up_dead()
        study = self._study(self.name)
        running, waiting = self._optuna.trial.TrialState.RUNNING, self._trials(study, "WAITING")
        for frozen in waiting:
            key = _key(frozen)
            if not ready(key):
                continue
            with self._alone():
                if not self._storage.set_trial_state_values(frozen._trial_id, running):
                    continue
                trial = self._optuna.Trial(study, frozen._trial_id)
                self._sign(trial)
                if self._is_second(study, trial):
                    self._end(trial, "PRUNED", error="another trial of the same key was there before")
                    continue
            return Claimed(key, Arm(key.arm, _attr(frozen, "levels"), _attr(frozen, "options")), trial)
        return None

    def search(self, plan: StudyPlan, task: str, seed: int) -> Claimed | None:
        """Take the next setting that Optuna proposes for a task, None if all have been tried."""
        self.give_up_dead()
        with self._alone():
            study = self._search_study(plan, task)
            tried = [_record(each) for each in self._trials(study) if "key" in each.user_attrs]
            if sum(each.state == "running" or each.has_ended for each in tried) >= plan.trials:
                return None
            trial = study.ask()
            self._sign(trial)
            arm = plan.arm_of({axis.name: _suggest(trial, axis) for axis in plan.axes_read()})
            key = TrialKey(task, arm.name, "search", seed)
            for name, value in (("key", asdict(key)), ("options", arm.options), ("levels", arm.levels)):
                trial.set_user_attr(name, value)
        return Claimed(key, arm, trial)

    def finish(self, claimed: Claimed, result: TrialResult, value: float) -> None:
        """Keep a result; `value` is what a search makes larger (or smaller, as the metric has it)."""
        self._end(claimed.trial, "COMPLETE", value, result=json.dumps(result.to_json()))

    def fail(self, claimed: Claimed, error: str) -> None:
        """Keep why a trial failed."""
        self._end(claimed.trial, "FAIL", error=error)

    def prune(self, claimed: Claimed) -> None:
        """Keep that a search's trial was ended early."""
        self._end(claimed.trial, "PRUNED")

    def release(self, claimed: Claimed) -> None:
        """Give a trial back that this worker was stopped in; it waits again."""
        self._end(claimed.trial, "FAIL", error=INTERRUPTED)
        if claimed.key.stage != "search":
            arm = {claimed.arm.name: claimed.arm}
            self.enqueue(self.plan(), [claimed.key], arm)

    def records(self) -> list[Record]:
        """All trials; of those with one key the one that got furthest."""
        found: dict[tuple[str, TrialKey], Record] = {}
        for study in self._all_studies():
            for trial in study.get_trials(deepcopy=False):
                if "key" not in trial.user_attrs:
                    continue  # asked for by a worker that died at once
                record = _record(trial)
                own = record.number if record.key.stage == "search" else ""
                before = found.get((f"{study.study_name}{own}", record.key))
                if before is None or _RANK[record.state] >= _RANK[before.state]:
                    found[(f"{study.study_name}{own}", record.key)] = record
        return list(found.values())

    def importance(self, plan: StudyPlan, task: str) -> dict[str, float]:
        """Share of each axis in what a search's metric varied by; empty with fewer than four settings."""
        study = self._search_study(plan, task)
        if len(self._trials(study, "COMPLETE")) < 4:
            return {}
        with suppress(RuntimeError, ValueError):  # all values are the same
            return dict(self._optuna.importance.get_param_importances(study))
        return {}

    # ----------------------------------------------------------------------------------------- who lives

    def alive(self) -> AbstractContextManager[None]:
        """Show other workers on this machine that this one lives, as long as it does."""
        return alive(self.folder / LIVES, self.worker)

    @contextmanager
    def beating(self, claimed: Claimed) -> Iterator[None]:
        """Send a trial's heartbeat while it runs."""
        stop = threading.Event()

        def beat() -> None:
            while not stop.wait(self.heartbeat_seconds):
                with suppress(Exception):  # a busy database: the next one may get through
                    self._storage.record_heartbeat(claimed.trial._trial_id)

        self._storage.record_heartbeat(claimed.trial._trial_id)
        thread = threading.Thread(target=beat, daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()

    def give_up_dead(self) -> list[TrialKey]:
        """Let the trials wait again whose worker died; gives them."""
        dead: list[TrialKey] = []
        for study in self._all_studies():
            self._optuna.storages.fail_stale_trials(study)
            with self._alone():
                for trial in self._trials(study, "RUNNING"):
                    if self._is_dead(trial):
                        self._end(self._optuna.Trial(study, trial._trial_id), "FAIL", error=DIED)
        study = self._study(self.name)
        living = {_key(trial) for trial in self._trials(study, "WAITING", "RUNNING", "COMPLETE")}
        for trial in self._trials(study, "FAIL"):
            if trial.user_attrs.get("error", DIED) == DIED and _key(trial) not in {*living, *dead}:
                arm = Arm(_key(trial).arm, _attr(trial, "levels"), _attr(trial, "options"))
                self.enqueue(self.plan(), [_key(trial)], {arm.name: arm})
                dead.append(_key(trial))
        return dead

    def _is_dead(self, trial: optuna.trial.FrozenTrial) -> bool:
        """Whether the worker of a running trial is known to have died; nobody may be claiming one now."""
        worker = trial.user_attrs.get("worker")
        if worker:
            return worker != self.worker and died_here(self.folder / LIVES, worker)
        # Claimed and not signed, so without a heartbeat that could be missed.
        began = trial.datetime_start or datetime.now()
        return self._in_files or (datetime.now() - began).total_seconds() > _GRACE * self.heartbeat_seconds

    # --------------------------------------------------------------------------------------------- Optuna

    def _alone(self) -> Any:
        """Keep other workers that share the files out for a moment."""
        if not self._in_files:
            return nullcontext()
        return library("filelock", extra="study").FileLock(self.folder / ".claim")

    def _study(self, name: str, *, create: bool = False, **options: Any) -> optuna.Study:
        try:
            if create:
                return self._optuna.create_study(
                    storage=self._storage, study_name=name, load_if_exists=True, **options
                )
            return self._optuna.load_study(storage=self._storage, study_name=name)
        except KeyError:
            raise ConfigError(
                f"There is no study {name!r} in {without_password(self.url)}",
                fix="look at --output and --name",
            ) from None

    def _search_study(self, plan: StudyPlan, task: str) -> optuna.Study:
        from ..evaluation import higher_is_better
        from ..tasks import get_task

        with suppress(ConfigError):
            study = self._study(f"{self.name}/{task}")
            study.sampler, study.pruner = self._sampler(), self._pruner(plan)
            return study
        rows = self.rows().get(task)
        metric = rows.metrics[0] if rows else get_task(task).main_metric
        direction = "maximize" if higher_is_better(metric) else "minimize"
        options = {"direction": direction, "sampler": self._sampler(), "pruner": self._pruner(plan)}
        return self._study(f"{self.name}/{task}", create=True, **options)

    def _sampler(self) -> Any:
        # Workers ask at the same time: what the others try is taken for bad, so that they try other things.
        return self._optuna.samplers.TPESampler(constant_liar=True, multivariate=True, n_startup_trials=8)

    def _pruner(self, plan: StudyPlan) -> Any:
        pruners = self._optuna.pruners
        return {
            "none": pruners.NopPruner,
            "median": pruners.MedianPruner,
            "successive_halving": pruners.SuccessiveHalvingPruner,
        }[plan.pruning]()

    def _all_studies(self) -> list[optuna.Study]:
        names = self._optuna.get_all_study_names(self._storage)
        ours = [name for name in names if name == self.name or name.startswith(f"{self.name}/")]
        return [self._study(name) for name in ours]

    def _trials(self, study: optuna.Study, *states: str) -> list[optuna.trial.FrozenTrial]:
        wanted = tuple(self._optuna.trial.TrialState[state] for state in states)
        return list(study.get_trials(deepcopy=False, states=wanted or None))

    def _sign(self, trial: optuna.Trial) -> None:
        trial.set_user_attr("worker", self.worker)
        self._storage.record_heartbeat(trial._trial_id)

    def _is_second(self, study: optuna.Study, trial: optuna.Trial) -> bool:
        others = self._trials(study, "RUNNING", "COMPLETE")
        key = trial.user_attrs["key"]
        return any(other.number < trial.number and other.user_attrs.get("key") == key for other in others)

    def _end(self, trial: optuna.Trial, state: str, value: float | None = None, **attrs: str) -> None:
        """End a trial; what others have given up meanwhile stays so, and runs again."""
        kind, values = self._optuna.trial.TrialState[state], None if value is None else [value]
        with suppress(self._optuna.exceptions.UpdateFinishedTrialError):
            for name, text in attrs.items():
                trial.set_user_attr(name, text)
            self._storage.set_trial_state_values(trial._trial_id, kind, values)


_RANK: dict[State, int] = {"failed": 0, "pruned": 1, "waiting": 2, "running": 3, "complete": 4}
_STATES: dict[str, State] = {
    "WAITING": "waiting",
    "RUNNING": "running",
    "COMPLETE": "complete",
    "FAIL": "failed",
    "PRUNED": "pruned",
}


def _suggest(trial: optuna.Trial, axis: Axis) -> str | float:
    if axis.levels:
        name: str = trial.suggest_categorical(axis.name, [level.name for level in axis.levels])
        return name
    assert axis.low is not None and axis.high is not None
    if isinstance(axis.low, int) and isinstance(axis.high, int):
        return trial.suggest_int(axis.name, axis.low, axis.high, log=axis.log)
    return trial.suggest_float(axis.name, axis.low, axis.high, log=axis.log)


def _plan(stored: str) -> StudyPlan:
    return StudyPlan.from_dict(json.loads(stored))


def _attr(trial: optuna.trial.FrozenTrial, name: str) -> Any:
    return trial.user_attrs.get(name, {})


def _key(trial: optuna.trial.FrozenTrial) -> TrialKey:
    return TrialKey(**trial.user_attrs["key"])


def _record(trial: optuna.trial.FrozenTrial) -> Record:
    result = trial.user_attrs.get("result")
    began, ended = trial.datetime_start, trial.datetime_complete or datetime.now()
    state = _STATES[trial.state.name]
    return Record(
        _key(trial),
        trial.number,
        state,
        _attr(trial, "options"),
        _attr(trial, "levels"),
        TrialResult.from_json(json.loads(result)) if result and state == "complete" else None,
        trial.user_attrs.get("error", "") if state != "complete" else "",
        trial.user_attrs.get("worker", ""),
        (ended - began).total_seconds() if began else 0.0,
    )


def without_password(url: str) -> str:
    """A database's address without what stands between its colon and its at sign."""
    head, at, tail = url.rpartition("@")
    return f"{head.rpartition(':')[0]}:...@{tail}" if at and head.count(":") > 1 else url
