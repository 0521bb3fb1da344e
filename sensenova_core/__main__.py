import os
import signal

INTERRUPTED = 130


def run() -> int:
    """The command line as a program. Ctrl-C ends it with 130, in whatever it is; once its work is done, no more."""
    try:
        from .cli import main

        status = main()
    except KeyboardInterrupt:
        status = INTERRUPTED
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    if status == INTERRUPTED:
        os._exit(status)  # Python would end itself by a signal, if it was importing when Ctrl-C came
    return status


if __name__ == "__main__":
    raise SystemExit(run())
