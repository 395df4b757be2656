"""`evomerge schema`: the config for editors."""

from __future__ import annotations

import json
import sys


def schema() -> None:
    """Print the JSON schema of a config, by which editors complete keys, explain them and mark mistakes.

    A config that begins with `# yaml-language-server: $schema=evomerge.schema.json` is read by it.

    **Example:** `evomerge schema > evomerge.schema.json`
    """
    from evomerge.algorithms import PROPOSERS
    from evomerge.alignment import ALIGNMENTS
    from evomerge.config.schema import json_schema
    from evomerge.estimators import ESTIMATORS
    from evomerge.execute import EXECUTORS
    from evomerge.methods import METHODS
    from evomerge.pruners import PRUNERS
    from evomerge.space import SPACES

    names = {
        "AlignConfig.method": ALIGNMENTS.names(),
        "ExecutionConfig.backend": ("auto", *EXECUTORS.names()),
        "MergeConfig.method": METHODS.names(),
        "SearchConfig.algorithm": PROPOSERS.names(),
        "SearchConfig.estimator": ("none", *ESTIMATORS.names()),
        "SearchConfig.pruner": PRUNERS.names(),
        "SpaceConfig.kind": SPACES.names(),
    }
    json.dump(json_schema(names), sys.stdout, indent=2, ensure_ascii=False)
    sys.stdout.write("\n")
