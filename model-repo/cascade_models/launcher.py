"""The entry point of `cascade-triton`, which becomes a server, and of its commands `agent`, `probe` and `setup`."""

from __future__ import annotations

import sys
from typing import Final

from cascade_models.agent.installation import LaunchError

EXIT_CODE: Final = 2


def main() -> None:
    """Every error is one line and exit code 2."""
    # A probe must start quickly, and the server needs no libraries, so each imports its own modules.
    command, arguments = (sys.argv[1:2] or [""])[0], sys.argv[2:]
    if command == "probe":
        from cascade_models import probe

        sys.exit(probe.main(arguments))
    try:
        if command == "agent":
            from cascade_models.agent import serving

            serving.main(arguments)
        elif command == "setup":
            from cascade_models.agent import setting_up

            setting_up.main(arguments)
        else:
            from cascade_models.agent import standalone

            standalone.launch(standalone.parser().parse_args())
    except LaunchError as error:
        name = f"cascade-triton {command}" if command in ("agent", "setup") else "cascade-triton"
        sys.stderr.write(f"{name}: {error}\n")
        sys.exit(EXIT_CODE)


if __name__ == "__main__":
    main()
