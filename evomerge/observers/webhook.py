"""A web address that is told when a run is done or has failed."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from evomerge.errors import ConfigError, ExecutionError
from evomerge.observers.base import Ended, Story, needed_text

_TIMEOUT_S = 30.0


class Webhook:
    """Posts a JSON object with the keys of `Ended`; its `text` is what chat programs show.

    Variables such as $HOOK in the address are those of the environment, so that a secret isn't in the config.
    """

    takes_points = False

    def __init__(self, setting: Any) -> None:
        self._url = os.path.expandvars(needed_text("webhook", setting, "an address"))
        if not self._url.startswith(("http://", "https://")):
            raise ConfigError(
                f"observe: webhook: {setting}: expected http://... or https://..., or a variable of the environment "
                "that has it"
            )

    def begin(self, story: Story) -> None:
        """Nothing to tell."""

    def point(self, trial: int, values: Mapping[str, float]) -> None:
        """Nothing to tell."""

    def end(self, ended: Ended) -> None:
        """Post it, unless somebody stopped the search. Raises: ExecutionError."""
        if ended.state == "stopped":
            return
        body = json.dumps(ended.to_data()).encode()
        request = Request(self._url, data=body, headers={"Content-Type": "application/json"}, method="POST")
        try:
            with urlopen(request, timeout=_TIMEOUT_S):
                pass
        except HTTPError as error:
            raise ExecutionError(f"the address answers with status {error.code}") from error
        except (URLError, OSError, ValueError) as error:
            raise ExecutionError(f"the address can't be reached: {getattr(error, 'reason', error)}") from error
