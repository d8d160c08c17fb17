"""The jobs as last read or written: never older than the operator's own writes."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from pydantic import ValidationError

from cra_operator.api import Job, JobKey

logger = logging.getLogger(__name__)


class JobStore:
    """All jobs by key. Resource versions decide which of two states is newer.

    `on_gone` hears the key of every job that is no more: deleted, vanished, or made anew under its old name.
    """

    def __init__(self, on_gone: Callable[[JobKey], None] = lambda key: None) -> None:
        self._on_gone = on_gone
        self._jobs: dict[JobKey, Job] = {}
        self._versions: dict[JobKey, int] = {}
        self._first_seen: dict[JobKey, float] = {}

    def __iter__(self) -> Iterator[Job]:
        return iter(self._jobs.values())

    def __len__(self) -> int:
        return len(self._jobs)

    def get(self, key: JobKey) -> Job | None:
        """The job, if it exists as far as is known."""
        return self._jobs.get(key)

    def age(self, key: JobKey) -> float:
        """Seconds since the job was first heard of by this process; 0 if it is gone."""
        now = time.monotonic()
        return now - self._first_seen.get(key, now)

    def put(self, raw: Mapping[str, Any]) -> JobKey | None:
        """Take over an object as the API server gave it; return its key if that is news."""
        meta = raw["metadata"]
        key = meta["namespace"], meta["name"]
        version = int(meta["resourceVersion"])
        if self._versions.get(key, -1) >= version:
            return None
        try:
            job = Job.model_validate(raw)
        except ValidationError as error:
            logger.error("%s/%s cannot be read and is left alone: %s", *key, error)
            return None
        known = self._jobs.get(key)
        if known is not None and known.metadata.uid != job.metadata.uid:
            self.drop(key)
        self._jobs[key] = job
        self._versions[key] = version
        self._first_seen.setdefault(key, time.monotonic())
        return key

    def drop(self, key: JobKey, uid: str | None = None) -> None:
        """Forget a job that was deleted; with a uid only if it is still that one."""
        job = self._jobs.get(key)
        if job is not None and uid in (None, job.metadata.uid):
            del self._jobs[key], self._versions[key], self._first_seen[key]
            self._on_gone(key)

    def adopt(self, raws: Iterable[Mapping[str, Any]], version: int, namespace: str | None = None) -> None:
        """Take over a list of one namespace or of all as of a resource version: what is not in it is gone."""
        listed: set[JobKey] = set()
        for raw in raws:
            listed.add((raw["metadata"]["namespace"], raw["metadata"]["name"]))
            self.put(raw)
        vanished = {
            key
            for key in self._jobs
            if key not in listed and namespace in (None, key[0]) and self._versions[key] <= version
        }
        for key in vanished:
            self.drop(key)
