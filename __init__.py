"""ComfyUI's door to the node pack. Nothing is imported until ComfyUI asks for the nodes."""

WEB_DIRECTORY = "./web"


async def comfy_entrypoint():
    from .nodes.extension import SenseNovaCoreExtension

    return SenseNovaCoreExtension()


__all__ = ["WEB_DIRECTORY", "comfy_entrypoint"]
