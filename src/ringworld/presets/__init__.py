"""Whole runs, as Python functions that return a typed configuration; yours need not live here."""

from ringworld.presets.lwm import lwm_7b, lwm_chat_7b, lwm_text_7b, lwm_text_chat_7b, lwm_vision_7b
from ringworld.presets.lwm_text import (
    lwm_text_1b,
    lwm_text_3b,
    lwm_text_7b_h100,
    lwm_text_7b_h200,
    lwm_text_7b_v5p,
    lwm_text_7b_v6e,
    lwm_text_13b,
    lwm_text_30b,
    lwm_text_65b,
    lwm_text_200m,
    lwm_text_llama_8b,
)
from ringworld.presets.needles import extend_needles, needles
from ringworld.presets.one_machine import extend_smollm2, finetune_smollm2, laptop, one_gpu
from ringworld.presets.quickstart import quickstart, smoke
from ringworld.presets.run import RunConfig

__all__ = [
    "RunConfig",
    "extend_needles",
    "extend_smollm2",
    "finetune_smollm2",
    "laptop",
    "lwm_7b",
    "lwm_chat_7b",
    "lwm_text_13b",
    "lwm_text_1b",
    "lwm_text_200m",
    "lwm_text_30b",
    "lwm_text_3b",
    "lwm_text_65b",
    "lwm_text_7b",
    "lwm_text_7b_h100",
    "lwm_text_7b_h200",
    "lwm_text_7b_v5p",
    "lwm_text_7b_v6e",
    "lwm_text_chat_7b",
    "lwm_text_llama_8b",
    "lwm_vision_7b",
    "needles",
    "one_gpu",
    "quickstart",
    "smoke",
]
