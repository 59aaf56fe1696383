"""W&B's account as far as the environment tells: whether there is a key, and which project runs go to."""

from __future__ import annotations

import netrc
import os
from pathlib import Path
from urllib.parse import urlparse

from tvr_lightning.errors import ConfigError

HOSTS = ("api.wandb.ai", "api.forge.coreweave.com")  # W&B's own, the earlier and the later one: `wandb login` names it


def wandb_has_key() -> bool:
    """Whether W&B could log in: a key in the environment or a login in the netrc file."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    given = urlparse(os.environ.get("WANDB_BASE_URL", "")).hostname
    try:
        logins = netrc.netrc(Path(os.environ.get("NETRC") or "~/.netrc").expanduser())
    except (OSError, RuntimeError, netrc.NetrcParseError):
        return False
    return any(logins.authenticators(host) is not None for host in ([given] if given else HOSTS))


def wandb_project() -> str:
    """The project in W&B that runs and their report go to."""
    return os.environ.get("WANDB_PROJECT", "tvr_lightning")


def check_online() -> None:
    """Refuses WANDB_MODE=online where W&B could not log in: it would ask for a key, or fail in the middle of a start.

    Raises:
        ConfigError: there is no key.
    """
    if os.environ.get("WANDB_MODE") == "online" and not wandb_has_key():
        raise ConfigError(
            "WANDB_MODE is online, and there is no W&B key: set WANDB_API_KEY, log in with `wandb login`, or leave "
            "WANDB_MODE out, which keeps the run offline (`wandb sync` sends it later)"
        )
