"""The command `ray`, whose machines come up however late their agents do."""

from __future__ import annotations

from ray.scripts.scripts import main

from evomerge.execute.ray.private import told_ports

if __name__ == "__main__":
    with told_ports():
        main()
