"""ComfyUI's door to the node pack. Nothing is imported until ComfyUI asks for the nodes."""

WEB_DIRECTORY = "./web"


async def comfy_entrypoint():
    try:
        from .nodes.extension import SenseNovaCoreExtension
    except ImportError as error:
        from .nodes.host import why_not

        raise RuntimeError(why_not(error)) from None  # which ComfyUI writes into its log, in one line
    return SenseNovaCoreExtension()


__all__ = ["WEB_DIRECTORY", "comfy_entrypoint"]
