"""The command: `python -m pymesh`, and the script `pymesh`."""

import signal

# Until a verb watches signals itself there is nothing to tidy up: Ctrl-C ends the process, without a traceback from
# whatever module it was importing.
signal.signal(signal.SIGINT, signal.SIG_DFL)

from pymesh.cli.main import main  # noqa: E402

if __name__ == "__main__":
    main()
