"""What can be wrong with what a caller handed in. Every message names the value and the remedy."""


class SenseNovaError(Exception):
    """Base of every error this package raises on purpose."""


class CheckpointError(SenseNovaError):
    """A checkpoint that is missing, damaged or of another architecture."""


class PromptError(SenseNovaError, ValueError):
    """A prompt the model cannot be given."""


class SettingsError(SenseNovaError, ValueError):
    """A setting out of its range."""
