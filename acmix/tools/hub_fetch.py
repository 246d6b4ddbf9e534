"""The files of a repository of the Hugging Face hub: fetched, or taken from those that were fetched before."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from huggingface_hub import constants, hf_hub_download, logging
from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from huggingface_hub.utils import validate_repo_id

from acmix.errors import UsageError
from acmix.models.download import quick_if_offline
from acmix.tools.hub_folder import CARD, CONFIG, WEIGHT_FILES

# what its client raises, whichever one the hub's package stands on: httpx, or requests in older ones
CLIENT_ERRORS: tuple[Any, ...] = (*HfHubHTTPError.__bases__, HfHubHTTPError)
# by status
SAID = {
    400: "it refuses the request",
    401: "it does not accept the token, or wants one; log in with `hf auth login`, or set HF_TOKEN",
    403: "the token may not do this; take one that may write to the repository, or ask its owner",
    404: "there is no such repository or revision, or it is private; check the name, or log in with `hf auth login`",
    409: "somebody else wrote at the same time; run the command again",
    429: "it was asked too often; wait a few minutes",
}


def fetched(repository: str, source: str, *, with_card: bool = False) -> Path:
    """The folder with config.json and the weights of a repository; of one commit, and no other of its files.

    Args:
        repository: "owner/name" or "owner/name@revision".
        source: what the user gave, for messages.
        with_card: also the model card, if there is one.

    Raises:
        UsageError: no such repository, it holds no model, or the hub cannot be reached and it was not fetched before.
    """
    repo_id, _, revision = repository.partition("@")
    check_repo_id(repo_id)
    with quick_if_offline(constants.ENDPOINT), one_line(f"fetch {repo_id}"):
        try:
            config = Path(hf_hub_download(repo_id, CONFIG, revision=revision or None))
        except LocalEntryNotFoundError as error:
            raise UsageError(unreached(source, error)) from None
        except EntryNotFoundError:
            raise UsageError(f"{repo_id} has no {CONFIG}: it holds no model that acmix or timm reads") from None
        commit = config.parent.name
        if with_card:
            with suppress(EntryNotFoundError):
                hf_hub_download(repo_id, CARD, revision=commit)
        missing = f"{repo_id} has no {' and no '.join(WEIGHT_FILES)}: acmix reads no other weights of a repository"
        for name in WEIGHT_FILES:
            try:
                return Path(hf_hub_download(repo_id, name, revision=commit)).parent
            except LocalEntryNotFoundError as error:
                missing = unreached(source, error)
            except EntryNotFoundError:
                continue
    raise UsageError(missing)


def unreached(source: str, error: BaseException) -> str:
    """Why the files of a repository are not at hand, and what to do."""
    cause = error.__cause__
    if getattr(cause, "response", None) is not None:
        return f"cannot fetch {source}: {reason(cause)}"
    mend = "unset HF_HUB_OFFLINE" if os.environ.get("HF_HUB_OFFLINE") else "check the connection"
    return (
        f"cannot reach {endpoint()} for the weights of {source!r}, which were not downloaded before; {mend}, or give a "
        "folder with the repository's config.json and model.safetensors"
    )


def check_repo_id(repo_id: str) -> None:
    """Refuses what is no name of a repository, before anybody is asked for it.

    Raises:
        UsageError: it is none.
    """
    try:
        if repo_id.count("/") != 1:
            raise HFValidationError
        validate_repo_id(repo_id)
    except HFValidationError:
        raise UsageError(f"{repo_id!r} is no name of a repository; expected OWNER/NAME") from None


def endpoint() -> str:
    """The hub's address, without a name and password in it."""
    parts = urlsplit(constants.ENDPOINT)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()


@contextmanager
def one_line(doing: str) -> Iterator[None]:
    """Says in one line what the hub answered; neither its own text nor ours holds the token.

    Args:
        doing: such as "fetch owner/name".

    Raises:
        UsageError: the hub refused, failed, or broke the connection off.
    """
    verbosity = logging.get_verbosity()
    # else each new try is a warning
    logging.set_verbosity_error()
    try:
        yield
    except UsageError:
        raise
    except CLIENT_ERRORS as error:
        raise UsageError(f"cannot {doing}: {reason(error)}") from None
    except RuntimeError as error:
        # of the upload of a large file, which tells by its cause what came to pass
        raise UsageError(f"cannot {doing}: {reason(error.__cause__ or error)}") from None
    except (ValueError, LookupError, TypeError) as error:
        raise UsageError(
            f"cannot {doing}: {endpoint()} does not answer as a hub does ({type(error).__name__}); check HF_ENDPOINT"
        ) from None
    finally:
        logging.set_verbosity(verbosity)


def reason(error: BaseException | None) -> str:
    """Why a request failed, and what to do."""
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status is None:
        if isinstance(error, OSError) and error.errno is not None and error.strerror and not is_of_network(error):
            return f"{error.strerror}{f' ({error.filename})' if error.filename else ''}"
        return f"the connection to {endpoint()} failed ({type(error).__name__}); check it and run the command again"
    said = SAID.get(status) or ("it has trouble; try again later" if status >= 500 else "it refuses the request")
    return f"{endpoint()} answered {status}: {said}"


def is_of_network(error: OSError) -> bool:
    """Whether the system's error is of a connection rather than of a file."""
    return isinstance(error, (ConnectionError, TimeoutError))
