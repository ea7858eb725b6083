"""What is common to files that other libraries read and write, too: `config.json` and safetensors."""

OUR_KEY = "ringworld"
"""Under which our own values stand."""
FLOATS = ("F64", "F32", "F16", "BF16")
"""Types of tensors that are read, as safetensors names them."""
