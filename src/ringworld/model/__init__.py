"""The world model: a LLaMA-shaped transformer over one id space, cut over a mesh of devices."""
