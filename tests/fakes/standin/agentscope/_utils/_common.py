"""The ids and times of messages and blocks."""

import uuid
from collections.abc import Callable
from datetime import datetime


def _id_factory() -> str:
    return uuid.uuid4().hex


def _timestamp_factory() -> str:
    return datetime.now().isoformat()


def set_id_factory(factory: Callable[[], str]) -> None:
    global _id_factory
    _id_factory = factory


def set_timestamp_factory(factory: Callable[[], str]) -> None:
    global _timestamp_factory
    _timestamp_factory = factory


def _generate_id() -> str:
    return _id_factory()


def _generate_timestamp() -> str:
    return _timestamp_factory()
