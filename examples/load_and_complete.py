"""Load a model folder; continue a text, score it, and draw a video where the model can.

python examples/load_and_complete.py runs/quickstart/model
"""

import sys

import ringworld as rw

world = rw.load(sys.argv[1])
print(world.complete("The special magic", max_new_tokens=8, temperature=0.8, seed=1))
scored = world.score("A red circle moves to the right.")
print(f"{scored.mean_nats:.2f} nats a token over {scored.tokens} tokens")
if world.prompts.frame_tokenizer is not None:
    frames = world.draw("A red circle moves to the right.", frames=2)
    print(f"drew {frames.shape[0]} frames of {frames.shape[1]} x {frames.shape[2]} pixels")
