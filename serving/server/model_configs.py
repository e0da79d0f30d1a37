"""The models of a repository, as their configurations describe them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..runtime.bundle import is_bundle
from ..runtime.errors import RepositoryError

__all__ = ["check_repository", "model_configs"]

_CONFIGS = "*/config.pbtxt"


def check_repository(repository: Path) -> None:
    """Check that there is something to serve.

    Raises:
        RepositoryError: it is no directory, or holds no model.
    """
    if not repository.is_dir():
        raise RepositoryError(f"{repository} is no directory; build one with `longserve repo`")
    if any(repository.glob(_CONFIGS)):
        return
    if is_bundle(repository):
        raise RepositoryError(
            f"{repository} is a bundle, no model repository; build one of it with "
            f"`longserve repo {repository} --name NAME -o model_repository`"
        )
    raise RepositoryError(
        f"{repository} holds no model; build one with `longserve repo BUNDLE --name NAME -o {repository}`"
    )


def model_configs(repository: Path) -> Iterator[tuple[str, Any]]:
    """Give name and `ModelConfig` of each model, sorted; those that cannot be read are left out."""
    from ..repository.config import parse_config

    for path in sorted(repository.glob(_CONFIGS)):
        try:
            config = parse_config(path.read_text(encoding="utf-8"), str(path))
        except (OSError, UnicodeDecodeError, RepositoryError):
            continue
        yield path.parent.name, config
