"""A model behind HTTP, in the protocol of OpenAI's API."""
