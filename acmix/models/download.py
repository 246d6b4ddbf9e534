"""Downloads of published weights that fail within seconds where there is no network."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPException
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import timm
from huggingface_hub import constants
from timm.models import PretrainedCfg

from acmix.names import without_secrets

# seconds
PATIENCE = 5.0


def server_of(cfg: PretrainedCfg | None) -> str:
    """Where weights are downloaded from."""
    if cfg is not None and cfg.url and not cfg.hf_hub_id:
        return str(cfg.url)
    return constants.ENDPOINT


def server_of_name(name: str) -> str:
    """Where the weights of a model of timm's are downloaded from; "" for a name that it does not know."""
    try:
        return server_of(timm.get_pretrained_cfg(name, allow_unregistered=True))
    except RuntimeError:
        return ""


@contextmanager
def quick_if_offline(server: str) -> Iterator[bool]:
    """Lets the hub's client look at what was downloaded before alone, where the server cannot be reached.

    By itself it tries each of several files six times, which takes a minute.
    """
    offline = constants.HF_HUB_OFFLINE
    reached = not server or (not offline and is_reachable(server))
    try:
        if not reached:
            constants.HF_HUB_OFFLINE = True
        yield reached
    finally:
        constants.HF_HUB_OFFLINE = offline


def is_reachable(server: str) -> bool:
    """Whether a server answers at all, without the password in its address; through the environment's proxy."""
    try:
        with urlopen(Request(without_secrets(server), method="HEAD"), timeout=PATIENCE):
            return True
    except HTTPError:
        return True
    except (OSError, ValueError, HTTPException):
        return False
