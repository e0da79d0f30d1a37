"""Bundles on the Hugging Face hub: pushed as a model repository, pulled back as the bundle that they were.

A pulled bundle is checked against its manifest, whose hashes name every file, before it is put in place.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from longserve.serving.runtime.bundle import Bundle
from longserve.serving.runtime.manifest import MANIFEST_NAME

from .bundle_writer import check_target, staged_directory
from .errors import HubError

__all__ = ["pull_bundle", "push_bundle"]

_CARD = "README.md"


def push_bundle(
    bundle: str | Path,
    repository: str,
    *,
    revision: str | None = None,
    private: bool = False,
    card: str | Path | None = None,
) -> str:
    """Upload a bundle to a model repository of the hub, which is made if need be, in one commit.

    Files of an earlier bundle there that this one does not have are deleted. The hub is that of HF_ENDPOINT,
    the token that of HF_TOKEN or of `hf auth login`.

    Args:
        bundle: the bundle's directory; its files are checked first.
        repository: `OWNER/NAME`.
        revision: branch to commit to; None: the main one.
        private: make a repository that does not exist yet a private one.
        card: a file for the repository's README.md; None: `render_card`.

    Returns:
        The commit's address.

    Raises:
        BundleError: the bundle cannot be used.
        HubError: the hub cannot be reached or refuses.
        ReportError: there is no `card`, and jinja2 is not installed.
    """
    from huggingface_hub import HfApi

    opened = Bundle.open(bundle)
    text = _made_card(opened.path) if card is None else Path(card).read_text(encoding="utf-8")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for wanted in (MANIFEST_NAME, *(record.name for record in opened.manifest.files)):
            (folder / wanted).symlink_to((opened.path / wanted).resolve())
        (folder / _CARD).write_text(text, encoding="utf-8")
        with _hub_errors(f"push to {repository}"):
            api = HfApi(library_name="longserve")
            api.create_repo(repository, private=private, exist_ok=True)
            commit = api.upload_folder(
                repo_id=repository,
                folder_path=folder,
                revision=revision,
                commit_message=f"longserve bundle {opened.fingerprint[:12]}",
                delete_patterns=["*.onnx", "*.data", "*.json"],
            )
    return str(commit.commit_url)


def pull_bundle(
    repository: str, target: str | Path, *, revision: str | None = None, overwrite: bool = False
) -> Bundle:
    """Download a bundle from the hub, check every file, and put it in place whole or not at all.

    Args:
        repository: `OWNER/NAME`.
        target: the bundle's directory.
        revision: branch, tag or commit; None: the main branch.
        overwrite: replace a bundle that is there.

    Raises:
        OutputError: the target exists or cannot be written.
        BundleError: what was downloaded is no bundle, or damaged.
        HubError: the hub cannot be reached or refuses.
    """
    from huggingface_hub import hf_hub_download, snapshot_download

    target = Path(target)
    check_target(target, overwrite=overwrite)
    with staged_directory(target, overwrite=overwrite) as stage:
        with tempfile.TemporaryDirectory(prefix=".pull-", dir=target.parent) as name:
            with _hub_errors(f"pull {repository}"):
                manifest = hf_hub_download(repository, MANIFEST_NAME, revision=revision, local_dir=name)
                wanted = _named_files(Path(manifest), repository)
                snapshot_download(repository, revision=revision, local_dir=name, allow_patterns=wanted)
            for wanted_name in (MANIFEST_NAME, *wanted):
                source = Path(name) / wanted_name
                if source.is_file():
                    shutil.move(source, stage / wanted_name)
        Bundle.open(stage)
    return Bundle.open(target, verify=False)


def _named_files(manifest: Path, repository: str) -> list[str]:
    """The files that a manifest names, as far as they can be names: `Bundle.open` checks the rest."""
    try:
        names = [str(record["name"]) for record in json.loads(manifest.read_text(encoding="utf-8"))["files"]]
    except (ValueError, KeyError, TypeError) as error:
        raise HubError(
            f"{MANIFEST_NAME} of {repository} is not a bundle's ({error}); push it again"
        ) from error
    return [name for name in names if Path(name).name == name and not set(name) & set("*?[]")]


def _made_card(bundle: Path) -> str:
    from .report import gather, render_card

    return render_card(gather(bundle))


@contextmanager
def _hub_errors(doing: str) -> Iterator[None]:
    """Say what failed in one sentence; the hub's own errors are many lines."""
    from huggingface_hub.errors import (
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
    )

    # of the HTTP library that this release of huggingface_hub uses, whose errors it does not always translate
    http_error: type[Exception] = HfHubHTTPError.__bases__[0]
    try:
        yield
    except RepositoryNotFoundError as error:
        raise HubError(
            f"cannot {doing}: there is no such repository, or it is private and no token is there "
            "(HF_TOKEN, or `hf auth login`)"
        ) from error
    except LocalEntryNotFoundError as error:
        raise HubError(
            f"cannot {doing}: the hub cannot be reached, see HF_ENDPOINT and the network"
        ) from error
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        first = str(error).strip().splitlines()
        raise HubError(f"cannot {doing}: {first[0] if first else type(error).__name__}") from error
    except http_error as error:
        raise HubError(
            f"cannot {doing}: the hub cannot be reached ({error}), see HF_ENDPOINT and the network"
        ) from error
