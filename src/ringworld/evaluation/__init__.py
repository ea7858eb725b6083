"""What is asked of a model: tasks, and the one runner that asks them."""
