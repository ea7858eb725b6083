"""What the commands do. Apart from the options, so that `--help` loads none of it."""
