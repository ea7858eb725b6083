"""Whole runs, as Python functions that return a typed configuration; yours need not live here."""

from ringworld.presets.lwm import lwm_7b, lwm_chat_7b, lwm_text_7b
from ringworld.presets.needles import needles
from ringworld.presets.one_machine import laptop, one_gpu
from ringworld.presets.quickstart import quickstart, smoke
from ringworld.presets.run import RunConfig

__all__ = [
    "RunConfig",
    "laptop",
    "lwm_7b",
    "lwm_chat_7b",
    "lwm_text_7b",
    "needles",
    "one_gpu",
    "quickstart",
    "smoke",
]
