"""Models to and from repositories of the Hugging Face hub; a folder does without it. The token is never shown."""

from __future__ import annotations

import os
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch
from huggingface_hub import CommitOperationAdd, HfApi, constants, get_token
from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars
from torch import nn

from acmix.errors import UsageError
from acmix.models.download import is_reachable
from acmix.tools.hub import REPOSITORY
from acmix.tools.hub_card import FOLDER_SHOWN
from acmix.tools.hub_fetch import check_repo_id, endpoint, fetched, one_line
from acmix.tools.hub_folder import CARD, CONFIG, WEIGHT_FILES, WEIGHTS, is_snapshot
from acmix.tools.hub_save import FILES, check_free, written
from acmix.tools.load import Info, load


@dataclass(frozen=True)
class Pushed:
    """What became of a push.

    Args:
        repo_id: "owner/name".
        url: of the commit.
        kept_card: whether the repository had a card already, which was left as it is.
    """

    repo_id: str
    url: str
    kept_card: bool


def push_to_hub(
    model_or_run: nn.Module | str | os.PathLike[str],
    repo_id: str,
    *,
    private: bool | None = None,
    revision: str | None = None,
    create_pr: bool = False,
    replace_card: bool = False,
    message: str = "Add model",
    token: str | None = None,
    classes: Sequence[str] | None = None,
    license: str | None = None,
    dataset: str | None = None,
) -> Pushed:
    """Writes a model as `save_pretrained` does, and sends it to a repository of the hub, in one commit.

    Args:
        model_or_run: as `save_pretrained` takes it; a folder that it wrote is sent as it is.
        repo_id: "owner/name"; made if there is none yet.
        private: whether a new repository is; None: as the owner's settings say.
        revision: a branch; the main one by default.
        create_pr: open a pull request instead.
        replace_card: put a new card in the place of one that is there; otherwise that one is kept.
        message: of the commit.
        token: of the hub; by default HF_TOKEN, or that of `hf auth login`.
        classes: as of `save_pretrained`.
        license: as of `save_pretrained`.
        dataset: as of `save_pretrained`.

    Returns:
        Where it lies now.

    Raises:
        UsageError: as `save_pretrained`, or the hub cannot be reached, or refuses.
    """
    check_repo_id(repo_id)
    if constants.HF_HUB_OFFLINE:
        raise UsageError("HF_HUB_OFFLINE is set, and nothing is sent; unset it, or write a folder with save_pretrained")
    token = token or get_token()
    if not token:
        raise UsageError("there is no token of the hub; log in with `hf auth login`, or set HF_TOKEN")
    if not is_reachable(constants.ENDPOINT):
        raise UsageError(f"cannot reach {endpoint()}; check the connection, or write a folder with save_pretrained")
    source = None if isinstance(model_or_run, nn.Module) else Path(os.path.expanduser(model_or_run))
    if source is not None and is_snapshot(source):
        if (classes, license, dataset) != (None, None, None):
            raise UsageError(f"{source} is sent as it is; give classes, license and dataset when you save it")
        load(source, device="cpu")
        if not (source / WEIGHTS).is_file():
            raise UsageError(
                f"{source} has no {WEIGHTS}, and no other weights are sent; write one with `acmix hub save {source} "
                "FOLDER`, and send that"
            )
        files = nullcontext(source)
    else:
        name = repo_id.partition("/")[2]
        files = written(
            model_or_run, None, classes=classes, license=license, dataset=dataset, name=name, repo_id=repo_id
        )
    api = HfApi(token=token, library_name="acmix")
    with files as folder, one_line(f"push to {repo_id}"), quiet():
        repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
        has_card = api.file_exists(repo_id, CARD, revision=revision)
        sent = [each for each in FILES if (folder / each).is_file() and (each != CARD or replace_card or not has_card)]
        additions = [
            CommitOperationAdd(each, addressed(folder / each, repo_id) if each == CARD else folder / each)
            for each in sent
        ]
        done = api.create_commit(repo_id, additions, commit_message=message, revision=revision, create_pr=create_pr)
    return Pushed(repo_id, done.pr_url or done.commit_url, has_card and not replace_card)


def from_pretrained(
    source: str | os.PathLike[str], *, revision: str | None = None, device: str | torch.device = "auto"
) -> tuple[nn.Module, Info]:
    """Loads a model that `save_pretrained` or `push_to_hub` wrote, or another that timm has on the hub.

    A folder needs no network. A repository is asked for what is new; without a network, or with HF_HUB_OFFLINE=1, what
    was fetched before is taken.

    Args:
        source: a folder, or "owner/name" of a repository.
        revision: a branch, a tag or a commit of a repository.
        device: as of `acmix.load`.

    Returns:
        As `acmix.load`: the model in evaluation mode, and what goes with it.

    Raises:
        UsageError: there is no such model, it cannot be had, or it is damaged.
    """
    text = os.fspath(source)
    if os.path.isdir(os.path.expanduser(text)):
        folder = Path(os.path.expanduser(text))
        if revision is not None:
            raise UsageError(f"revision {revision} is for a repository, and {folder} is a folder; leave it out")
        if not is_snapshot(folder):
            raise UsageError(f"{folder} has no {CONFIG} of a model; give a folder of save_pretrained, or use load")
        return load(folder, device=device)
    name = text.removeprefix(REPOSITORY)
    if name.startswith((".", "/", "~")) or name.count("/") != 1:
        raise UsageError(f"there is no folder {text}; expected one, or OWNER/NAME of a repository")
    return load(f"{REPOSITORY}{name}{f'@{revision}' if revision else ''}", device=device)


def pull(repo_id: str, folder: str | os.PathLike[str], *, revision: str | None = None) -> Path:
    """Fetches a model of the hub into a folder, which works without a network from then on.

    Args:
        repo_id: "owner/name".
        folder: where to; it must not hold a model yet.
        revision: a branch, a tag or a commit.

    Raises:
        UsageError: as `from_pretrained`, or the folder cannot be written.
    """
    folder = Path(os.path.expanduser(folder))
    name = repo_id.removeprefix(REPOSITORY) + (f"@{revision}" if revision else "")
    check_free(folder)
    found = fetched(name, name, with_card=True)
    load(found, device="cpu")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # a folder is one of a model from the moment that it has its configuration
        for each in (CARD, *WEIGHT_FILES, CONFIG):
            if (found / each).is_file():
                with tempfile.TemporaryDirectory(prefix=".acmix-", dir=folder) as place:
                    copy = shutil.copyfile(found / each, Path(place) / each)
                    os.replace(copy, folder / each)
    except OSError as error:
        raise UsageError(f"cannot write {folder}: {error.strerror}; choose another place") from None
    return folder


def addressed(file: Path, repo_id: str) -> bytes:
    """A card that shows how to load the model from its repository, also where it was written for a folder."""
    text = file.read_text(encoding="utf-8")
    name = '[^"/]+/[^"/]+'
    # the two lines of `usage`, also those that another repository was written into
    text = re.sub(
        rf'(?m)^(model = timm\.create_model)\("({FOLDER_SHOWN}|{REPOSITORY}{name})"',
        rf'\1("{REPOSITORY}{repo_id}"',
        text,
    )
    text = re.sub(rf'(?m)^(model, info = acmix\.from_pretrained)\("(FOLDER|{name})"', rf'\1("{repo_id}"', text)
    return text.encode()


@contextmanager
def quiet() -> Iterator[None]:
    """Leaves the hub's bars of progress out where nobody looks at them."""
    if sys.stderr.isatty() or are_progress_bars_disabled():
        yield
        return
    disable_progress_bars()
    try:
        yield
    finally:
        enable_progress_bars()
