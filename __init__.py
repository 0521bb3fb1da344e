"""ComfyUI's door to the node pack. Nothing is imported until ComfyUI asks for the nodes."""

import sys

WEB_DIRECTORY = "./web"
OLDEST_PYTHON = (3, 10)  # as pyproject.toml says it; an older one cannot read the other files


async def comfy_entrypoint():
    if sys.version_info < OLDEST_PYTHON:
        raise RuntimeError(_python_is_old())
    try:
        from .nodes.extension import SenseNovaCoreExtension
    except Exception as error:
        from .nodes.host import why_not

        if (reason := why_not(error)) is None:
            raise
        raise RuntimeError(reason) from None  # which ComfyUI writes into its log, in one line
    return SenseNovaCoreExtension()


def _python_is_old() -> str:
    version, oldest = (".".join(map(str, part)) for part in (sys.version_info[:3], OLDEST_PYTHON))
    return (
        f"SenseNova U1 has no nodes now: Python {version} is too old, this pack needs {oldest} or later; update ComfyUI"
    )


def _will_be_asked() -> bool:
    """A ComfyUI of before August 2025 has no such API, and passes over a pack without the older one."""
    return "folder_paths" not in sys.modules or "comfy_api.latest" in sys.modules


if not _will_be_asked():
    import logging

    if sys.version_info < OLDEST_PYTHON:
        logging.warning(_python_is_old())
    else:
        from .nodes.host import too_old_for_nodes

        logging.warning(too_old_for_nodes())


__all__ = ["WEB_DIRECTORY", "comfy_entrypoint"]
