"""Questions about images, and chat."""

from dataclasses import replace

from comfy_api.latest import io

from ..sensenova_core.reading.prompt import Message, filled
from ..sensenova_core.settings import DecodingSettings
from . import widgets
from .decoding import decoding_input, decoding_settings
from .door import UNSEEN, check_choice, checked
from .progress import TextProgress
from .sockets import CATEGORY, Chat, History, Images, Model, References, profile_outputs

ENDINGS = {
    "cut": "\n[cut by max_tokens: raise it for more]",
    "context": "\n[cut: the model's context is full; ask with fewer or smaller images, or a shorter history]",
}


class Understand(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SenseNovaCoreUnderstand",
            display_name="SenseNova U1 Understand",
            category=CATEGORY,
            description="Answers a question about images, or about nothing but text. The answer appears here while it "
            "is written. Connect history to the next Understand node to go on with the conversation.",
            search_aliases=["vqa", "caption", "chat", "llm", "describe"],
            inputs=[
                Model.Input("model", tooltip="From the Loader."),
                io.String.Input(
                    "question",
                    multiline=True,
                    dynamic_prompts=True,
                    tooltip="What to ask. Write <image> where an image belongs; others are put first.",
                ),
                Images.Input("images", optional=True, tooltip="From Image Condition: images new to the conversation."),
                History.Input("history", optional=True, tooltip="From an earlier Understand node."),
                *widgets.inputs(DecodingSettings, ["max_tokens"]),
                decoding_input(),
                io.String.Input(
                    "system_message",
                    default="",
                    multiline=True,
                    advanced=True,
                    tooltip="Tells the model how to answer. Counts only where a conversation begins.",
                ),
                *widgets.inputs(DecodingSettings, ["repetition_penalty"]),
            ],
            outputs=[
                io.String.Output(display_name="answer", tooltip="What the model wrote, without the question."),
                History.Output(
                    display_name="history", tooltip="The conversation so far, with its images, for the next Understand."
                ),
                *profile_outputs(),
            ],
        )

    @classmethod
    def validate_inputs(cls, decoding=UNSEEN):
        return check_choice("decoding", decoding)

    @classmethod
    @checked
    def execute(
        cls, *, model: Model.Type, question: str, max_tokens: int, decoding: dict | None = None,
        images: Images.Type | None = None, history: History.Type | None = None, system_message: str = "",
        **further: float,
    ) -> io.NodeOutput:  # fmt: skip
        chat = asked(history or Chat(), question, images=images or References(), system_message=system_message)
        settings = decoding_settings(decoding, max_tokens=max_tokens, **further)
        conversation = model.engine.conversation(chat.messages, chat.images, chat.max_pixels)
        answers = model.understand(conversation, settings)
        progress = TextProgress(max_tokens)
        for answer in answers:
            progress.report(answer.text, len(answer.ids))
        answer = answers.last
        progress.finish(answer.text + ENDINGS.get(answer.ended or "", ""))
        messages = (*chat.messages, Message("assistant", answer.text))
        return io.NodeOutput(answer.text, replace(chat, messages=messages), *answers.report())


def asked(chat: Chat, question: str, *, images: References, system_message: str) -> Chat:
    """The conversation with a question added, its images given their places in the text."""
    messages = chat.messages
    if not messages and system_message.strip():
        messages = (Message("system", system_message.strip()),)
    asked = Message("user", filled(question, len(images.images)))
    budgets = (images.max_pixels,) * len(images.images)
    return Chat((*messages, asked), (*chat.images, *images.images), (*chat.max_pixels, *budgets))
