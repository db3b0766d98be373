"""A classifier and its card on the Hugging Face hub."""

from __future__ import annotations

import re
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lib import workspace
from lib.delivery import model_folder
from lib.errors import WorkbookError, quoted, shown_path
from lib.training import classifier_folder

SUBFOLDER = "classifier"  # of the repository, whose own files a classifier's folder may not have
CARD = classifier_folder.CARD


@dataclass(frozen=True)
class Push:
    """What would be sent.

    Attributes
    ----------
    repo : "owner/name"
    folder : of the classifier
    card : the text of README.md
    licence : that it names
    private : whether nobody else may see the repository
    """

    repo: str
    folder: Path
    card: str
    licence: str
    private: bool

    def describe(self) -> str:
        """Return a line for each file, and one for all."""
        from huggingface_hub import constants

        sizes = {CARD: len(self.card.encode())}
        for path in sorted(self.folder.rglob("*")):
            if path.is_file() and path != self.folder / CARD:
                name = f"{SUBFOLDER}/{path.relative_to(self.folder).as_posix()}"
                sizes[name] = path.stat().st_size
        lines = [f"{size / 1e6:10.3f} MB  {name}" for name, size in sizes.items()]
        total = f"{sum(sizes.values()) / 1e6:10.3f} MB  {len(sizes)} files"
        seen = "private" if self.private else "public"
        target = f"{constants.ENDPOINT}/{self.repo} ({seen}, licence {self.licence})"
        return "\n".join([*lines, f"{total} to {target}"])


def plan(name: str, target: str, *, public: bool = False, licence: str = "") -> Push:
    """Return what a push would send; nothing is asked of the hub.

    Parameters
    ----------
    name : of a run or a registered classifier, or a path, as `model_folder.find` takes it
    target : "hub:owner/name"
    public : whether everybody may see it
    licence : by the hub's name for it; "" leaves what the card says

    Raises
    ------
    WorkbookError : no such classifier, one that is damaged or has no card, or another target.
    """
    from huggingface_hub import ModelCard

    repo = _repo(target)
    folder = model_folder.find(name)
    classifier_folder.read(folder)
    cards = [folder / CARD, workspace.home() / workspace.MODELS.format(run=name) / CARD]
    found = next((card for card in cards if card.is_file()), None)
    if found is None:
        raise WorkbookError(
            f"{shown_path(folder)} has no model card: `workbook run --run {name} --from 07` "
            f"writes it, or put a {CARD} into the folder"
        )
    card = ModelCard(found.read_text(encoding="utf-8"), ignore_metadata_errors=True)
    head: Any = card.data
    head.license = licence or head.license or "unknown"
    return Push(repo, folder, str(card), str(head.license), private=not public)


def send(push: Push) -> str:
    """Create the repository if it is not there, make one commit of all files, return its address.

    Files of an earlier classifier are removed from the repository.

    Raises
    ------
    WorkbookError : the hub is switched off, does not answer or refuses; or the repository is there
        already and is private where `push` is public, or public where it is private.
    """
    from huggingface_hub import HfApi, constants, errors, get_token

    if constants.is_offline_mode():
        raise WorkbookError("HF_HUB_OFFLINE keeps this machine off the hub; unset it to push")
    if not get_token():
        raise WorkbookError("there is no token for the hub: `hf auth login`, or set HF_TOKEN")
    api = HfApi()
    try:
        api.create_repo(push.repo, private=push.private, exist_ok=True)
        _check_visibility(push, private=api.model_info(push.repo).private)
        return _commit(api, push)
    except errors.HTTPError as error:
        raise WorkbookError(_refusal(push.repo, error)) from error
    except (OSError, ValueError) as error:
        if isinstance(error, WorkbookError):
            raise
        reason = " ".join(str(error).split())[:150]
        raise WorkbookError(f"{push.repo} cannot be pushed: {reason}") from error


def _repo(target: str) -> str:
    found = re.fullmatch(r"hub:(\w[\w.-]*/\w[\w.-]*)", target)
    if found is None:
        raise WorkbookError(f"a target is hub:owner/name; found {quoted(target, 80)}")
    return found[1]


def _check_visibility(push: Push, *, private: bool | None) -> None:
    if private == push.private:
        return
    found, words = ("private", "without") if private else ("public", "with")
    raise WorkbookError(
        f"{push.repo} is there already and is {found}: nothing was sent; push {words} --public, "
        "or change it in its settings on the hub"
    )


def _commit(api: Any, push: Push) -> str:
    with tempfile.TemporaryDirectory() as scratch:
        shutil.copytree(push.folder, Path(scratch) / SUBFOLDER)
        (Path(scratch) / SUBFOLDER / CARD).unlink(missing_ok=True)
        (Path(scratch) / CARD).write_text(push.card, encoding="utf-8")
        done = api.upload_folder(
            repo_id=push.repo,
            folder_path=scratch,
            delete_patterns=[f"{SUBFOLDER}/*"],
            commit_message="A classifier and its card",
        )
    return str(done.repo_url)


def _refusal(repo: str, error: Any) -> str:
    """Return in a line why the hub has not done what it was asked for."""
    from huggingface_hub import constants

    hub = constants.ENDPOINT
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status == 401:
        return f"{hub} refuses the token (401): log in again with `hf auth login`, or set HF_TOKEN"
    if status == 403:
        return (
            f"{hub} refuses {repo} (403): the name is another's, or the token may not write there"
        )
    reason = getattr(error, "server_message", None) or str(error).partition("\n")[0]
    return f"{hub} cannot take {repo}: {reason[:120] or type(error).__name__}"
