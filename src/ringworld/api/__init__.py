"""What the public names of `ringworld` do: one file a verb, on plain arguments."""
