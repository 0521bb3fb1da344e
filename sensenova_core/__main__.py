import signal


def run() -> int:
    """The command line as a program. Ctrl-C ends it with 130, in whatever it is, and when its work is done no more."""
    try:
        from .cli import main

        return main()
    except KeyboardInterrupt:
        return 130
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)


if __name__ == "__main__":
    raise SystemExit(run())
